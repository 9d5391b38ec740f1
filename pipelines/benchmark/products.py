"""How many multiply-adds LCD needs for one clip, forward and backward, however they are computed.

Shapes: N tokens, D channels, K meta-tokens, H heads, d outputs, P places of a cell, M components of a ``klt`` layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.pipelines.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Products:
    """Multiply-adds of one clip.

    Attributes
    ----------
    tokens
        Products with tokens or their codes.
    projections
        Those of value, output and common projection.
    carried
        Those through the bases of ``klt`` layers, where the values are made for components once a step.
    carried_each
        The same where every context and every gradient of one goes through the basis by itself.
    """

    tokens: int
    projections: int
    carried: int = 0
    carried_each: int = 0

    @property
    def total(self) -> int:
        """All that are necessary."""
        return self.tokens + self.projections + min(self.carried, self.carried_each)


def affine_products(layers: Sequence[LayerSpec], recipe: Recipe, *, segments: int) -> Products:
    """Those of LCD on floats, int8 or int4.

    Per frame and layer: scores ``K H N D`` and the queries' gradients; contexts ``H N D`` and their weights' gradients;
    the mixing row ``N D`` and its gradient; the tokens' variances ``N D``; value, output and common projection
    ``2 D² + d D``, and twice that for their gradients. After the softmax everything is affine and only the sum of the
    meta-tokens is needed, so these products count once instead of K times. What does not grow with the frames is left
    out, and so is the decoder: both are small, and leaving them out only lowers the floor.
    """
    lcd = cast(LCDOptions, recipe.method_options)
    tokens = projections = 0
    for layer, count in _meta_tokens(layers, lcd):
        tokens += segments * layer.tokens * layer.width * (_vectors(lcd, count) + 1)
        projections += segments * 3 * layer.width * (2 * layer.width + _dim(lcd))
    return Products(tokens=tokens, projections=projections)


def klt_products(
    layers: Sequence[LayerSpec], formats: Mapping[str, KltFormat], recipe: Recipe, *, segments: int, batch: int
) -> Products:
    """Those of LCD on the codes of a ``klt`` codec, a step being of ``batch`` clips.

    Products with tokens are of M values instead of D, and there are no variances to compute. Carrying: the contexts'
    way back and their gradients' way there, ``H D P M`` a frame each, or instead value matrices for components, ``D² P
    M`` a step for them and for their gradient, by which the three products with values become ones of ``D P M`` a
    frame; besides, the mixing row and its gradient ``D P M`` a frame each, and the queries and theirs, ``K H D P M`` a
    step each.
    """
    lcd = cast(LCDOptions, recipe.method_options)
    tokens = projections = carried = carried_each = 0
    for layer, count in _meta_tokens(layers, lcd):
        form, width = formats[layer.name], layer.width
        through = width * form.places * form.components
        tokens += segments * layer.tokens * form.components * _vectors(lcd, count)
        projections += segments * 3 * width * (2 * width + _dim(lcd))
        always = segments * _mixing(lcd) * through + 2 * count * lcd.heads * through // batch
        carried_each += always + segments * 2 * lcd.heads * through
        carried += always + segments * 3 * (through - width * width) + 2 * width * through // batch
    return Products(tokens=tokens, projections=projections, carried=carried, carried_each=carried_each)


def _meta_tokens(layers: Sequence[LayerSpec], lcd: LCDOptions) -> list[tuple[LayerSpec, int]]:
    """Each layer with its K."""
    stages = {m: sorted({layer.stage for layer in layers if layer.modality == m}) for m in ("visual", "audio")}
    counted = []
    for layer in layers:
        counts = lcd.meta_tokens(layer.modality)
        k = counts if isinstance(counts, int) else counts[stages[layer.modality].index(layer.stage)]
        counted.append((layer, k))
    return counted


def _vectors(lcd: LCDOptions, count: int) -> int:
    """Products of a vector with all tokens, forward and backward."""
    return 2 * (count + 1) * lcd.heads + _mixing(lcd)


def _mixing(lcd: LCDOptions) -> int:
    return 2 if lcd.pretrained_branch == "linear" else 0


def _dim(lcd: LCDOptions) -> int:
    return lcd.dim if isinstance(lcd.dim, int) else 0
