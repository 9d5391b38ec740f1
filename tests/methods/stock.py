"""The oracle of LCD: the same function of the same parameters, with ``nn.MultiheadAttention`` on decoded tokens."""

import copy

import torch

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.methods.lcd import LCDOptions


def lcd_options(*, dim=256, meta_tokens=1, steps=1, **switches):
    """Options with K and R alike for both modalities."""
    k = tuple(meta_tokens) if isinstance(meta_tokens, list) else meta_tokens
    return LCDOptions(
        dim="none" if dim is None else dim, k_visual=k, k_audio=k, steps_visual=steps, steps_audio=steps, **switches
    )


def stock_meta_tokens(distiller, stored):
    """``[F, K, D]`` of a layer's tokens of F frames, as equations 3.1 and 3.2 say with a whole attention module."""
    dtype = next(distiller.parameters()).dtype if list(distiller.parameters()) else torch.float64
    tokens = stored.floats(dtype)
    options, pretrained = distiller.options, None
    if options.pretrained_branch == "linear":
        pretrained = distiller.mix.weight @ tokens + distiller.mix.bias.unsqueeze(-1)
    elif options.pretrained_branch == "avgpool":
        pretrained = tokens.mean(1, keepdim=True).expand(-1, distiller.count, -1)
    if not options.task_specific:
        return pretrained
    keys = tokens
    if options.norm and isinstance(stored.format, KltFormat):
        # klt stores normalised tokens, which are not normalised anew
        keys = distiller.norm_tokens.weight * stored.normalised(dtype) + distiller.norm_tokens.bias
    elif options.norm:
        keys = distiller.norm_tokens(tokens)
    meta_tokens = distiller.meta_tokens.expand(len(tokens), -1, -1)
    for _ in range(distiller.steps):
        queries = distiller.norm_meta_tokens(meta_tokens) if options.norm else meta_tokens
        attended, _ = distiller.attention(queries, keys, keys, need_weights=False)
        attended = attended + meta_tokens if options.residual else attended
        meta_tokens = attended if pretrained is None else attended + pretrained
    return meta_tokens


def stock_lcd(lcd, tokens):
    """``[B, T, d]``: what ``lcd(tokens)`` must be."""
    parts = []
    for layer, (key, distiller) in zip(lcd.layers, lcd.distillers.items(), strict=True):
        stored = tokens[layer.name]
        distilled = stock_meta_tokens(distiller, stored.flatten_frames())
        distilled = lcd.projections[key](distilled) if lcd.projections else distilled
        parts.append(distilled.unflatten(0, stored.codes.shape[:2]))
    return torch.cat(parts, dim=2).mean(2)


class StockLCD(torch.nn.Module):
    """A copy of an LCD, evaluated by :func:`stock_lcd`."""

    def __init__(self, lcd):
        super().__init__()
        self.lcd = copy.deepcopy(lcd)

    def forward(self, tokens):
        return stock_lcd(self.lcd, tokens)
