"""Layer-Centric Distillation of one layer as equations 3.1 and 3.2 print it: three matrices, no output projection.

Segmentation's published totals fit this reading, with matrices of their own for every step, where those of event
localisation fit whole attention modules (:mod:`mettle_cache.methods.distiller`; spec-avs.md 8.3, reading A).

Shapes: B clips, T segments, N tokens, D channels, K meta-tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.tokens import LayerTokens

BRANCHES = ("linear", "avgpool", "none")


class PlainDistiller(nn.Module):
    """Distil one layer. Parameters count ``3D² + 3D`` a set of matrices, ``KD``, and ``NK + K`` (mixing).

    Parameters
    ----------
    meta_tokens, steps, heads
        K, R and the number of attention heads; logits are scaled by ``1 / sqrt(D / heads)``.
    task_specific, pretrained_branch
        The attention, and the token-mixing branch: ``linear`` (W_g), ``avgpool`` or ``none`` (Tables 9 and 10).
    out_proj
        A linear after the attention, which equation 3.1 does not have: ``D² + D`` more.
    shared_steps
        One set of matrices for all steps.

    Raises
    ------
    UsageError
        A number below 1, a width that ``heads`` does not divide, an unknown branch, or nothing left to distil.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        meta_tokens: int = 1,
        steps: int = 1,
        heads: int = 8,
        task_specific: bool = True,
        pretrained_branch: str = "linear",
        out_proj: bool = False,
        shared_steps: bool = False,
    ) -> None:
        super().__init__()
        if min(meta_tokens, steps, heads) < 1:
            raise UsageError(f"LCD needs at least one meta-token, step and head, not {meta_tokens}, {steps}, {heads}")
        if layer.width % heads:
            raise UsageError(f"layer {layer.name}: width {layer.width} is not divisible by {heads} heads")
        if pretrained_branch not in BRANCHES:
            raise UsageError(f"LCD has no '{pretrained_branch}'; use one of {', '.join(BRANCHES)}")
        if not task_specific and pretrained_branch == "none":
            raise UsageError("LCD without the task-specific and without the pretrained branch distils nothing")
        self.layer, self.count, self.steps, self.heads = layer, meta_tokens, steps, heads
        self.pretrained_branch = pretrained_branch
        width = layer.width
        if task_specific:
            self.meta_tokens = nn.Parameter(torch.empty(meta_tokens, width).normal_(std=0.02))
        sets = (1 if shared_steps else steps) if task_specific else 0
        self.projections = nn.ModuleList(_projection(3 * width, width) for _ in range(sets))
        self.outputs = nn.ModuleList(_projection(width, width) for _ in range(sets if out_proj else 0))
        if pretrained_branch == "linear":
            self.mix = nn.Linear(layer.tokens, meta_tokens)
        # follows the module's precision and device, also where a variant has no parameters
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """Meta-tokens ``[B, T, K, D]`` from ``tokens`` by layer name, ``codes [B, T, N, *]``."""
        stored = tokens[self.layer.name]
        # logits and sums stay in full precision; the products that autocast would speed up are tiny
        with torch.autocast(stored.codes.device.type, enabled=False):
            meta_tokens: Tensor = self._distil(stored.flatten_frames()).unflatten(0, stored.codes.shape[:2])
        return meta_tokens

    def mixing(self) -> Tensor | None:
        """Weights ``[K, N]`` of the token-mixing branch."""
        if self.pretrained_branch == "linear":
            return self.mix.weight
        if self.pretrained_branch == "avgpool":
            return (self.unit / self.layer.tokens).expand(self.count, self.layer.tokens)
        return None

    def _distil(self, tokens: LayerTokens) -> Tensor:
        mixing = self.mixing()
        if not len(self.projections):
            nobody = self.unit.new_empty(0, self.layer.width)
            return self._with_bias(absorbed_pooling(tokens, nobody, mixing)[1])
        meta_tokens: Tensor = self.meta_tokens
        pretrained: Tensor | None = None
        for step in range(self.steps):
            number = min(step, len(self.projections) - 1)
            queries, values, shift = self._fold(number, meta_tokens)
            context, mixed = absorbed_pooling(tokens, queries, mixing if step == 0 else None)[:2]
            if step == 0 and mixing is not None:
                pretrained = self._with_bias(mixed)
            by_head = context.unflatten(1, (self.count, self.heads))
            attended = torch.einsum("fkhd,hed->fkhe", by_head, values).flatten(-2) + shift
            if self.outputs:
                attended = self.outputs[number](attended)
            meta_tokens = attended if pretrained is None else attended + pretrained
        return meta_tokens

    def _fold(self, number: int, meta_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``W_Kᵀ q`` of each head ``[..., K H, D]``, ``W_V`` by head ``[H, D/H, D]`` and its bias ``[D]``."""
        width, heads = self.layer.width, self.heads
        linear = cast(nn.Linear, self.projections[number])
        weight, bias = linear.weight, linear.bias
        asked = nn.functional.linear(meta_tokens, weight[:width], bias[:width]).unflatten(-1, (heads, -1))
        keys = weight[width : 2 * width].unflatten(0, (heads, -1))
        queries = torch.einsum("...khe,hed->...khd", asked, keys) * (width // heads) ** -0.5
        values: Tensor = weight[2 * width :].unflatten(0, (heads, -1))
        return queries.flatten(-3, -2), values, bias[2 * width :]

    def _with_bias(self, mixed: Tensor) -> Tensor:
        return mixed + self.mix.bias.unsqueeze(-1) if self.pretrained_branch == "linear" else mixed


def _projection(outputs: int, inputs: int) -> nn.Linear:
    """A linear that starts as those of ``nn.MultiheadAttention`` do."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
