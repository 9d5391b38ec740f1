"""Layer-Centric Distillation of one layer: N tokens into K meta-tokens (Mettle, equations 3.1 and 3.2).

The paper's attention can be read in two ways. The parameter totals published for event localisation fit a whole
attention module, shared by all steps, with norms around it. Those for segmentation fit three matrices a step and no
output projection, as equation 3.1 prints it (docs/protocols/avs.md, "Readings of the published totals", A). The two are
computed differently, so their sums are in different orders: a step with the module is one function with a backward pass
written by hand; a step with matrices is left to autograd.

Shapes: F frames (B clips times T segments), N tokens, D channels, K meta-tokens, H attention heads, d output channels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.distillation import Distillation, distil_tokens
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.methods.kernels.projections import ProjectionWeights, fold_keys
from mettle_cache.options import Options
from mettle_cache.tokens import LayerTokens

if TYPE_CHECKING:
    from mettle_cache.methods.lcd import LCDOptions


@dataclass(frozen=True, kw_only=True)
class MatrixOptions(Options):
    """Three matrices, as equation 3.1 prints them, in the place of an attention module.

    Attributes
    ----------
    out_proj
        A linear after the attention, which equation 3.1 does not have: ``D² + D`` more parameters.
    shared_steps
        One set of matrices for all steps.
    """

    out_proj: bool = False
    shared_steps: bool = False


class LayerDistiller(nn.Module):
    """Distil one layer.

    Parameters count ``KD``, ``NK + K`` (mixing), and with the attention ``4D² + 4D`` and ``4D`` (norms); or
    ``3D² + 3D`` for each set of matrices.

    Parameters
    ----------
    meta_tokens, steps
        K and R.
    options
        What all layers have in common: attention heads, branches, norm and residual.
    matrices
        Matrices instead of an attention module; then neither norm nor residual.

    Raises
    ------
    UsageError
        A width that the attention heads do not divide, or matrices with norm or residual.
    """

    # training and evaluation compile the kernels before their clocks start
    pools_tokens = True

    def __init__(
        self,
        layer: LayerSpec,
        meta_tokens: int,
        steps: int,
        options: LCDOptions,
        matrices: MatrixOptions | None = None,
    ) -> None:
        super().__init__()
        if layer.width % options.heads:
            raise UsageError(f"layer {layer.name}: width {layer.width} is not divisible by {options.heads} heads")
        if matrices is not None and (options.norm or options.residual):
            raise UsageError(
                "equation 3.1 has three matrices and neither norm nor residual",
                hint="set lcd.norm = false and lcd.residual = false",
            )
        self.layer, self.options, self.matrices = layer, options, matrices
        self.count, self.steps = meta_tokens, steps
        if options.task_specific:
            self.meta_tokens = nn.Parameter(torch.empty(meta_tokens, layer.width).normal_(std=0.02))
            if matrices is None:
                self._add_module()
            else:
                self._add_matrices(matrices)
        if options.pretrained_branch == "linear":
            self.mix = nn.Linear(layer.tokens, meta_tokens)
        # follows the module's precision and device, also where a variant has no parameters
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def _add_module(self) -> None:
        width = self.layer.width
        self.attention = nn.MultiheadAttention(width, self.options.heads, batch_first=True)
        if self.options.norm:
            self.norm_meta_tokens = nn.LayerNorm(width)
            self.norm_tokens = nn.LayerNorm(width)

    def _add_matrices(self, matrices: MatrixOptions) -> None:
        width, sets = self.layer.width, 1 if matrices.shared_steps else self.steps
        self.projections = nn.ModuleList(_xavier_linear(3 * width, width) for _ in range(sets))
        self.outputs = nn.ModuleList(_xavier_linear(width, width) for _ in range(sets if matrices.out_proj else 0))

    def forward(self, tokens: LayerTokens, projection: nn.Linear | None = None, *, summed: bool = False) -> Tensor:
        """Meta-tokens ``[F, K, D]`` of a layer's tokens, ``codes [F, N, D]``; or, projected, ``[F, K, d]``.

        Their sum, ``[F, D]`` or ``[F, d]``, costs less: everything after the softmax is affine, so it is applied once,
        to the sum, instead of K times.
        """
        # logits and statistics stay in full precision; the products that autocast would speed up are tiny
        with torch.autocast(tokens.codes.device.type, enabled=False):
            last = self.last_step(tokens, projection, summed=summed)
            if last is not None:
                distilled = distil_tokens(last)
                return distilled.squeeze(1) if summed else distilled
            distilled = self._distil_with_matrices(tokens)
            distilled = distilled if projection is None else projection(distilled)
            return distilled.sum(1) if summed else distilled

    def mixing(self) -> Tensor | None:
        """Weights ``[K, N]`` of the token-mixing branch."""
        if self.options.pretrained_branch == "linear":
            return self.mix.weight
        if self.options.pretrained_branch == "avgpool":
            return (self.unit / self.layer.tokens).expand(self.count, self.layer.tokens)
        return None

    def absorbed_queries(self, meta_tokens: Tensor) -> Tensor:
        """``W_Kᵀ q`` of each head, logit scale and norm weight included: ``[..., K, D]`` to ``[..., K H, D]``.

        Of several sets of matrices they are those of the first step.
        """
        return self._absorb(meta_tokens)[0] if self.matrices is None else self._absorb_matrices(0, meta_tokens)[0]

    def value_projection(self) -> tuple[Tensor, Tensor]:
        """``W_V [D, D]`` and its bias ``[D]``, of the first step."""
        start = 2 * self.layer.width
        if self.matrices is None:
            return self.attention.in_proj_weight[start:], self.attention.in_proj_bias[start:]
        linear = cast(nn.Linear, self.projections[0])
        return linear.weight[start:], linear.bias[start:]

    def output_projection(self) -> nn.Linear | None:
        """The linear after the attention, of the first step; None where there is none."""
        if self.matrices is None:
            return self.attention.out_proj
        return cast(nn.Linear, self.outputs[0]) if self.outputs else None

    def attention_weights(self, tokens: LayerTokens) -> Tensor:
        """The last step's softmax weights ``[F, K, H, N]`` of tokens ``codes [F, N, D]``, which are decoded for it.

        What training computes never exists in this shape: this is for looking at. Raises UsageError without attention.
        """
        if not self.options.task_specific:
            raise UsageError(f"layer {self.layer.name} is distilled without attention (lcd.task_specific = false)")
        meta_tokens: Tensor = self.meta_tokens.expand(len(tokens.codes), -1, -1)
        if self.steps > 1:
            earlier = copy.copy(self)
            earlier.steps = self.steps - 1
            meta_tokens = earlier(tokens)
        dtype = self.unit.dtype
        if self.matrices is not None:
            queries = self._absorb_matrices(min(self.steps, len(self.projections)) - 1, meta_tokens)[0]
        else:
            queries = self.absorbed_queries(meta_tokens)
        normed = self.matrices is None and self.options.norm
        keys = tokens.normalised(dtype, eps=self.norm_tokens.eps) if normed else tokens.floats(dtype)
        weights: Tensor = (queries @ keys.mT).softmax(-1).unflatten(1, (self.count, self.options.heads))
        return weights

    def _absorb(self, meta_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries that :meth:`absorbed_queries` describes, and the values' projection with its bias."""
        attention = self.attention
        normed = self.norm_meta_tokens(meta_tokens) if self.options.norm else meta_tokens
        queries, values, values_bias = fold_keys(
            normed, attention.in_proj_weight, attention.in_proj_bias, self.options.heads
        )
        if not self.options.scale:
            queries = queries * (self.layer.width // self.options.heads) ** 0.5
        if self.options.norm:
            queries = queries * self.norm_tokens.weight
        return queries.flatten(-3, -2), values, values_bias

    def last_step(
        self, tokens: LayerTokens, projection: nn.Linear | None = None, *, summed: bool = False
    ) -> Distillation | None:
        """What :meth:`forward` computes last, after the steps before it; None with matrices, which go another way."""
        options = self.options
        if self.matrices is not None and options.task_specific:
            return None
        mixing = self.mixing()
        weights = ProjectionWeights(mix_bias=self.mix.bias if options.pretrained_branch == "linear" else None)
        queries = self.unit.new_empty(0, self.layer.width)
        eps = self.norm_tokens.eps if options.norm and options.task_specific else None
        if options.task_specific:
            attention = self._attention_weights(weights)
            meta_tokens = self.meta_tokens.expand(len(tokens.codes), -1, -1)
            queries, weights = self._step_weights(self.meta_tokens, meta_tokens, attention)
            for _ in range(self.steps - 1):
                count = queries.shape[-2]
                step = Distillation(tokens, queries, mixing, weights, heads=options.heads, eps=eps, contexts=count)
                meta_tokens = distil_tokens(step)
                queries, weights = self._step_weights(meta_tokens, meta_tokens, attention)
        if projection is not None:
            weights = weights._replace(projection=projection.weight, projection_bias=projection.bias)
        contexts = queries.shape[-2]
        if summed and self.count > 1:
            contexts, weights = min(contexts, options.heads), weights.of_sum(self.count)
            mixing = None if mixing is None else mixing.sum(0, keepdim=True)
        return Distillation(tokens, queries, mixing, weights, heads=options.heads, eps=eps, contexts=contexts)

    def _step_weights(
        self, asking: Tensor, meta_tokens: Tensor, weights: ProjectionWeights
    ) -> tuple[Tensor, ProjectionWeights]:
        """Queries of one step, made of the meta-tokens ``asking``, and ``weights`` with the step's own filled in."""
        queries, values, values_bias = self._absorb(asking)
        residual = meta_tokens if self.options.residual else None
        return queries, weights._replace(values=values, values_bias=values_bias, residual=residual)

    def _attention_weights(self, outputs: ProjectionWeights) -> ProjectionWeights:
        """``outputs``, completed by the attention weights that all steps share."""
        out = self.attention.out_proj
        weights = outputs._replace(out=out.weight, out_bias=out.bias)
        if self.options.norm:
            weights = weights._replace(norm=self.norm_tokens.weight, norm_bias=self.norm_tokens.bias)
        return weights

    def _distil_with_matrices(self, tokens: LayerTokens) -> Tensor:
        mixing = self.mixing()
        meta_tokens: Tensor = self.meta_tokens
        pretrained: Tensor | None = None
        for step in range(self.steps):
            number = min(step, len(self.projections) - 1)
            queries, values, values_bias = self._absorb_matrices(number, meta_tokens)
            # the tokens are mixed once, for all steps
            context, mixed = absorbed_pooling(tokens, queries, mixing if step == 0 else None)[:2]
            if step == 0 and mixing is not None:
                linear = self.options.pretrained_branch == "linear"
                pretrained = mixed + self.mix.bias.unsqueeze(-1) if linear else mixed
            by_head = context.unflatten(1, (self.count, self.options.heads))
            attended = torch.einsum("fkhd,hed->fkhe", by_head, values).flatten(-2) + values_bias
            if self.outputs:
                attended = self.outputs[number](attended)
            meta_tokens = attended if pretrained is None else attended + pretrained
        return meta_tokens

    def _absorb_matrices(self, number: int, meta_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``W_Kᵀ q`` of each head ``[..., K H, D]``, ``W_V`` by head ``[H, D/H, D]`` and its bias ``[D]``."""
        width, heads = self.layer.width, self.options.heads
        linear = cast(nn.Linear, self.projections[number])
        weight, bias = linear.weight, linear.bias
        by_head = nn.functional.linear(meta_tokens, weight[:width], bias[:width]).unflatten(-1, (heads, -1))
        keys = weight[width : 2 * width].unflatten(0, (heads, -1))
        queries = torch.einsum("...khe,hed->...khd", by_head, keys)
        if self.options.scale:
            queries = queries * (width // heads) ** -0.5
        values: Tensor = weight[2 * width :].unflatten(0, (heads, -1))
        return queries.flatten(-3, -2), values, bias[2 * width :]


def _xavier_linear(outputs: int, inputs: int) -> nn.Linear:
    """A linear that is initialised as those of ``nn.MultiheadAttention`` are."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
