"""Layer-Centric Distillation of one layer: N tokens into K meta-tokens (Mettle, equations 3.1 and 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import distil_tokens
from mettle_cache.methods.kernels.projections import ProjectionWeights, fold_keys
from mettle_cache.tokens import LayerTokens

ATTENTION_PATHS = ("absorbed", "stock")
PRETRAINED_BRANCHES = ("linear", "avgpool", "none")


@dataclass(frozen=True, kw_only=True)
class DistillerOptions:
    """The switches of Tables 8 to 10, and what spec-avel.md section 9 leaves open.

    ``steps`` is R. ``task_specific`` is the attention branch (TS), ``pretrained_branch`` the token-mixing one (DP).
    ``norm`` puts a LayerNorm on the meta-tokens and on the attended tokens. ``residual`` adds the meta-tokens back
    after the attention, which the paper does not. ``attention`` chooses the evaluation, not the function: ``stock``
    runs ``nn.MultiheadAttention`` on decoded tokens and is the oracle of ``absorbed``.
    """

    steps: int = 1
    heads: int = 8
    task_specific: bool = True
    pretrained_branch: str = "linear"
    norm: bool = True
    residual: bool = False
    attention: str = "absorbed"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.heads < 1:
            raise UsageError(f"LCD needs at least one step and one head, not {self.steps} and {self.heads}")
        for value, legal in (
            (self.pretrained_branch, PRETRAINED_BRANCHES),
            (self.attention, ATTENTION_PATHS),
        ):
            if value not in legal:
                raise UsageError(f"LCD has no '{value}'; use one of {', '.join(legal)}")
        if not self.task_specific and self.pretrained_branch == "none":
            raise UsageError("LCD without the task-specific and without the pretrained branch distils nothing")


class LayerDistiller(nn.Module):
    """Distil one layer. Parameters count ``4D² + 4D`` (attention), ``4D`` (norms), ``KD``, and ``NK + K`` (mixing)."""

    def __init__(self, layer: LayerSpec, meta_tokens: int, options: DistillerOptions) -> None:
        super().__init__()
        if meta_tokens < 1:
            raise UsageError(f"layer {layer.name}: LCD needs at least one meta-token, not {meta_tokens}")
        if layer.width % options.heads:
            raise UsageError(f"layer {layer.name}: width {layer.width} is not divisible by {options.heads} heads")
        self.layer = layer
        self.options = options
        self.count = meta_tokens
        if options.task_specific:
            self.meta_tokens = nn.Parameter(torch.empty(meta_tokens, layer.width).normal_(std=0.02))
            self.attention = nn.MultiheadAttention(layer.width, options.heads, batch_first=True)
            if options.norm:
                self.norm_meta_tokens = nn.LayerNorm(layer.width)
                self.norm_tokens = nn.LayerNorm(layer.width)
        if options.pretrained_branch == "linear":
            self.mix = nn.Linear(layer.tokens, meta_tokens)
        # follows the module's precision and device, also where a variant has no parameters
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, tokens: LayerTokens, projection: nn.Linear | None = None, *, summed: bool = False) -> Tensor:
        """Meta-tokens ``[F, K, D]`` of a layer's tokens, ``codes [F, N, D]``; or, projected, ``[F, K, d]``.

        Their sum, ``[F, D]`` or ``[F, d]``, costs less than they do: all that follows the softmax is affine, and serves
        K meta-tokens at once.
        """
        if self.options.attention == "stock":
            distilled = self._distil_stock(tokens.floats(self.unit.dtype))
            distilled = distilled if projection is None else projection(distilled)
            return distilled.sum(1) if summed else distilled
        # logits and statistics stay in full precision; the products that autocast would speed up are tiny
        with torch.autocast(tokens.codes.device.type, enabled=False):
            distilled = self._distil_absorbed(tokens, projection, summed=summed)
        return distilled.squeeze(1) if summed else distilled

    def mixing(self) -> Tensor | None:
        """Weights ``[K, N]`` of the token-mixing branch."""
        if self.options.pretrained_branch == "linear":
            return self.mix.weight
        if self.options.pretrained_branch == "avgpool":
            return (self.unit / self.layer.tokens).expand(self.count, self.layer.tokens)
        return None

    def fold_queries(self, meta_tokens: Tensor) -> Tensor:
        """``W_Kᵀ q`` of each head, logit scale and norm weight included: ``[..., K, D]`` to ``[..., K H, D]``."""
        return self._fold(meta_tokens)[0]

    def _fold(self, meta_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of :meth:`fold_queries`, and the values' projection and its bias."""
        attention = self.attention
        asked = self.norm_meta_tokens(meta_tokens) if self.options.norm else meta_tokens
        folded, values, values_bias = fold_keys(
            asked, attention.in_proj_weight, attention.in_proj_bias, self.options.heads
        )
        if self.options.norm:
            folded = folded * self.norm_tokens.weight
        return folded.flatten(-3, -2), values, values_bias

    def _distil_absorbed(self, tokens: LayerTokens, projection: nn.Linear | None, *, summed: bool) -> Tensor:
        options, mixing = self.options, self.mixing()
        weights = ProjectionWeights(mix_bias=self.mix.bias if options.pretrained_branch == "linear" else None)
        queries = self.unit.new_empty(0, self.layer.width)
        eps = self.norm_tokens.eps if options.norm and options.task_specific else None
        if options.task_specific:
            attention = self._attention_weights(weights)
            meta_tokens = self.meta_tokens.expand(len(tokens.codes), -1, -1)
            queries, weights = self._ask(self.meta_tokens, meta_tokens, attention)
            for _ in range(options.steps - 1):
                meta_tokens = distil_tokens(tokens, queries, mixing, weights, heads=options.heads, eps=eps)
                queries, weights = self._ask(meta_tokens, meta_tokens, attention)
        if projection is not None:
            weights = weights._replace(projection=projection.weight, projection_bias=projection.bias)
        contexts = queries.shape[-2]
        if summed and self.count > 1:
            contexts, weights = min(contexts, options.heads), weights.of_sum(self.count)
            mixing = None if mixing is None else mixing.sum(0, keepdim=True)
        return distil_tokens(tokens, queries, mixing, weights, heads=options.heads, eps=eps, contexts=contexts)

    def _ask(self, asked: Tensor, meta_tokens: Tensor, weights: ProjectionWeights) -> tuple[Tensor, ProjectionWeights]:
        """A step's queries, and ``weights`` with what is this step's own."""
        queries, values, values_bias = self._fold(asked)
        residual = meta_tokens if self.options.residual else None
        return queries, weights._replace(values=values, values_bias=values_bias, residual=residual)

    def _attention_weights(self, outputs: ProjectionWeights) -> ProjectionWeights:
        out = self.attention.out_proj
        weights = outputs._replace(out=out.weight, out_bias=out.bias)
        if self.options.norm:
            weights = weights._replace(norm=self.norm_tokens.weight, norm_bias=self.norm_tokens.bias)
        return weights

    def _distil_stock(self, tokens: Tensor) -> Tensor:
        mixing = self.mixing()
        pretrained = None if mixing is None else mixing @ tokens
        if pretrained is not None and self.options.pretrained_branch == "linear":
            pretrained = pretrained + self.mix.bias.unsqueeze(-1)
        if not self.options.task_specific:
            assert pretrained is not None
            return pretrained
        keys = self.norm_tokens(tokens) if self.options.norm else tokens
        meta_tokens = self.meta_tokens.expand(tokens.shape[0], -1, -1)
        for _ in range(self.options.steps):
            asked = self.norm_meta_tokens(meta_tokens) if self.options.norm else meta_tokens
            attended, _ = self.attention(asked, keys, keys, need_weights=False)
            attended = attended + meta_tokens if self.options.residual else attended
            meta_tokens = attended if pretrained is None else attended + pretrained
        return meta_tokens
