"""The least that a training step has to do: read its bytes or multiply its matrices, and update the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.train.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds of one clip, by what they go to; ``optimiser`` is one clip's share of an update."""

    read: float
    products: float
    optimiser: float

    @property
    def seconds(self) -> float:
        """Reading and multiplying can overlap; the update comes after both."""
        return max(self.read, self.products) + self.optimiser

    def describe(self) -> str:
        return (
            f"the larger of {1000 * self.read:.1f} ms to read and {1000 * self.products:.1f} ms of products, and "
            f"{1000 * self.optimiser:.1f} ms of the optimiser"
        )


def necessary_products(layers: Sequence[LayerSpec], recipe: Recipe, *, segments: int) -> int:
    """Multiply-adds of LCD for one clip, forward and backward, however it is computed.

    Per frame and layer, with K meta-tokens and H heads, N tokens of D channels, d outputs: scores ``K H N D`` and the
    queries' gradients; contexts ``H N D`` and their weights' gradients; the mixing row ``N D`` and its gradient; the
    tokens' variances ``N D``; value, output and common projection ``2 D² + d D``, and twice that for their gradients.
    Where K would stand with the others, one does: only the sum of the meta-tokens is asked for, and all that follows
    the softmax is affine. What does not grow with the frames is left out, and so is the decoder: both are small, and a
    lower floor is the harder one to come near.
    """
    lcd, total = recipe.lcd, 0
    stages = {m: sorted({layer.stage for layer in layers if layer.modality == m}) for m in ("visual", "audio")}
    for layer in layers:
        counts = lcd.k_visual if layer.modality == "visual" else lcd.k_audio
        k = counts if isinstance(counts, int) else counts[stages[layer.modality].index(layer.stage)]
        tokens, width = layer.tokens, layer.width
        dim = lcd.dim if isinstance(lcd.dim, int) else 0
        mixing = 2 if lcd.pretrained_branch == "linear" else 0
        total += segments * tokens * width * (2 * (k + 1) * lcd.heads + mixing + 1)
        total += segments * 3 * (2 * width * width + dim * width)
    return total
