"""LCD as a trainer without our kernels has it: ``nn.MultiheadAttention`` on tokens that are decoded to floats first.

The same function of the same parameters; what the bench of a training step is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.methods.lcd import LCD
from mettle_cache.tokens import LayerTokens


def use_stock_attention(model: nn.Module) -> None:
    """Put a :class:`StockLCD` in the place of every LCD in ``model``; the parameters stay the same objects."""
    for name in [name for name, module in model.named_modules() if isinstance(module, LCD)]:
        model.set_submodule(name, StockLCD(cast(LCD, model.get_submodule(name))))


class StockLCD(nn.Module):
    """``[B, T, d]`` from tokens ``[B, T, N, D]`` by layer name, as :class:`mettle_cache.methods.lcd.LCD`."""

    def __init__(self, lcd: LCD) -> None:
        super().__init__()
        self.layers, self.count = lcd.layers, lcd.count
        self.distillers, self.projections = lcd.distillers, lcd.projections

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        total: Tensor | None = None
        for layer, (key, distiller) in zip(self.layers, self.distillers.items(), strict=True):
            stored = tokens[layer.name]
            distilled = _distil(cast(LayerDistiller, distiller), stored.flatten_frames())
            if len(self.projections):
                distilled = self.projections[key](distilled)
            share = distilled.sum(1).unflatten(0, stored.codes.shape[:2])
            total = share if total is None else total + share
        assert total is not None
        return total / self.count


def _distil(distiller: LayerDistiller, stored: LayerTokens) -> Tensor:
    """Meta-tokens ``[F, K, D]`` of a layer's tokens ``[F, N, D]``."""
    options, mixing = distiller.options, distiller.mixing()
    tokens = stored.floats(distiller.unit.dtype)
    pretrained = None if mixing is None else mixing @ tokens
    if pretrained is not None and options.pretrained_branch == "linear":
        pretrained = pretrained + distiller.mix.bias.unsqueeze(-1)
    if not options.task_specific:
        assert pretrained is not None
        return pretrained
    keys = tokens
    if options.norm and isinstance(stored.format, KltFormat):
        # normalised before they were encoded, and not anew
        norm = distiller.norm_tokens
        keys = stored.normalised(distiller.unit.dtype) * norm.weight + norm.bias
    elif options.norm:
        keys = distiller.norm_tokens(tokens)
    meta_tokens = distiller.meta_tokens.expand(tokens.shape[0], -1, -1)
    for _ in range(distiller.steps):
        queries = distiller.norm_meta_tokens(meta_tokens) if options.norm else meta_tokens
        attended, _ = distiller.attention(queries, keys, keys, need_weights=False)
        attended = attended + meta_tokens if options.residual else attended
        meta_tokens = attended if pretrained is None else attended + pretrained
    return meta_tokens
