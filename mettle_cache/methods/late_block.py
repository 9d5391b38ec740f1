"""Replaying a backbone's last block and final norm from the tokens that enter it, frozen, with gradients to them.

Source: docs/methods.md, "SHERL"; the kinds of blocks and their tensors are those of :mod:`mettle_cache.late_bundle`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.companions import Companion
from mettle_cache.late_bundle import read_block


class FrozenLateBlock(nn.Module):
    """The last block and the final norm of a backbone: ``[..., N, D]`` to ``[..., N, D]``.

    Its weights are buffers that no state dict holds: they get no gradient, are not counted as trained, and stay in the
    companion. In float32 it computes what the backbone does, operation by operation. On the meta device nothing of the
    companion is read but its header.

    Raises
    ------
    UsageError, StoreCorruptError, StoreKeyError
        As :func:`~mettle_cache.late_bundle.read_block`, and as the companion's own.
    """

    def __init__(self, companion: Companion, name: str) -> None:
        super().__init__()
        self.block = read_block(companion, name)
        for tensor, shape in companion.shapes.items():
            self.register_buffer(tensor, torch.empty(shape), persistent=False)
        if not self.norm1_weight.is_meta:
            for tensor, values in companion.load().items():
                self.get_buffer(tensor).copy_(values)

    norm1_weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, -3)
        return self._replay(frames).view(x.shape)

    def _replay(self, x: Tensor) -> Tensor:
        """``[F, N, D]``, F frames."""
        if self.block.norm == "post":
            x = x + self._norm("norm1", self._attend(x))
            x = x + self._norm("norm2", self._feed_forward(x))
        else:
            x = x + self._scaled("scale1", self._attend(self._norm("norm1", x)))
            x = x + self._scaled("scale2", self._feed_forward(self._norm("norm2", x)))
        return self._norm("final", x) if self._has("final_weight") else x

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self._linear("qkv", x).unflatten(-1, (3, self.block.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.get_buffer("bias") if self._has("bias") else None
        if self.block.attention == "cosine":
            cosines = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT
            logits = cosines * self.get_buffer("scale")
            attended = (logits if bias is None else logits + bias).softmax(dim=-1) @ v
        elif bias is None:
            attended = functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = ((q * q.shape[-1] ** -0.5) @ k.mT + bias).softmax(dim=-1) @ v
        return self._linear("proj", attended.transpose(1, 2).flatten(2))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self._linear("fc2", functional.gelu(self._linear("fc1", x)))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.get_buffer(f"{name}_bias") if self._has(f"{name}_bias") else None
        return functional.linear(x, self.get_buffer(f"{name}_weight"), bias)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.block.final_eps if name == "final" else self.block.eps
        weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        return x * self.get_buffer(name) if self._has(name) else x

    def _has(self, name: str) -> bool:
        return name in self._buffers
