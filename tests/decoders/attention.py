"""Multi-head attention and layer normalisation written out in numpy: the oracle of the parsing heads."""

import numpy as np


def array(tensor):
    return tensor.detach().numpy()


def linear(x, layer):
    return x @ array(layer.weight).T + array(layer.bias)


def norm(x, layer):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + layer.eps) * array(layer.weight) + array(layer.bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def attend(layer, query, memory, hidden=None):
    """One sample, ``[Q, h]`` and ``[M, h]``; a query must not look where ``hidden [Q, M]`` is true."""
    dim, heads = query.shape[1], layer.num_heads
    weights, biases = array(layer.in_proj_weight).reshape(3, dim, dim), array(layer.in_proj_bias).reshape(3, dim)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, memory, memory), weights, biases, strict=True))
    parts = []
    for head in range(heads):
        own = slice(head * dim // heads, (head + 1) * dim // heads)
        logits = q[:, own] @ k[:, own].T / np.sqrt(dim // heads)
        if hidden is not None:
            logits[hidden] = -np.inf
        parts.append(softmax(logits, 1) @ v[:, own])
    return linear(np.concatenate(parts, 1), layer.out_proj)
