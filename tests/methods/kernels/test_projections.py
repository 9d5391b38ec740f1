"""The projections' hand-written gradients against autograd's; what follows the pooling is tested with LCD."""

import pytest
import torch

from mettle_cache.methods.kernels.projections import fold_keys

HEADS, WIDTH = 4, 24


def fold_plainly(asked, weight, bias, heads):
    query, key, value = weight.chunk(3)
    query_bias, _, value_bias = bias.chunk(3)
    queries = torch.nn.functional.linear(asked, query, query_bias).unflatten(-1, (heads, -1))
    scale = (WIDTH // heads) ** -0.5
    return torch.einsum("...khe,hed->...khd", queries, key.unflatten(0, (heads, -1))) * scale, value, value_bias


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 2)])
def test_values_and_gradients_equal_autograd(shape):
    rng = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(*size, generator=rng, dtype=torch.float64)
        for size in ((*shape, WIDTH), (3 * WIDTH, WIDTH), (3 * WIDTH,))
    ]
    results = []
    for fold in (fold_keys, fold_plainly):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        found = fold(*given, HEADS)
        sum(
            (part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in found
        ).backward()
        results.append([*(part.detach() for part in found), *(leaf.grad for leaf in given)])
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_a_part_that_nobody_uses_has_no_gradient():
    leaves = [torch.randn(size, requires_grad=True) for size in ((2, WIDTH), (3 * WIDTH, WIDTH), (3 * WIDTH,))]
    fold_keys(*leaves, HEADS)[0].sum().backward()
    assert not leaves[1].grad[2 * WIDTH :].any()
    assert not leaves[2].grad[WIDTH:].any()
    assert leaves[1].grad[: 2 * WIDTH].any()
