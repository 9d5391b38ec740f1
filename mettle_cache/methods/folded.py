"""LCD with one distillation step, folded for inference (architecture.md, idea 5).

With R = 1 the queries do not depend on the tokens, so everything that only weights enter is computed once:

- ``W_Q``, ``W_K``, the meta-tokens and both norms' weights become K H query vectors a layer;
- ``W_O``, the layer's projection and the mean over layers and meta-tokens become one matrix ``[d, D]``, and all biases
  of all layers one vector ``[d]``;
- the K rows of the mixing branch become one, because only their sum is used.

``W_V`` stays (with the norm's weight in it): merged with ``W_O`` it would take H matrices ``[d, D]``. Equal to the
module that it was made from to rounding, on every codec (tests/methods/test_folded.py).

From a file that ``mettle export`` wrote::

    from mettle_cache.methods.folded import load_folded

    visual = load_folded("runs/ave-swin-htsat-0/folded.safetensors")["visual"]
    features = visual(store.read([0]).layers)  # [clip, T, d], from int8 codes
    features = visual({name: LayerTokens(floats) for name, floats in tokens.items()})  # or from a backbone's floats

Shapes: B clips, T segments, F = B T frames, N tokens, D channels, K meta-tokens, H heads, d output channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mettle_cache.errors import RunError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.absorbed import absorbed_pooling
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.methods.lcd import LCD
from mettle_cache.tokens import LayerTokens

FORMAT = "mettle-folded-1"


@dataclass(frozen=True, kw_only=True)
class FoldedShape:
    """What a folded layer is made of, its numbers aside.

    ``queries`` is K H, 0 without the attention branch; ``eps`` is the norm's on the attended tokens, None without;
    ``mixing`` says whether there is a mixing branch and ``projected`` whether a projection follows it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    layer: LayerSpec
    queries: int
    heads: int
    eps: float | None
    mixing: bool
    projected: bool


class FoldedLayer(nn.Module):
    """One layer of :class:`FoldedLCD`: its share of the sum over layers, biases left out."""

    def __init__(self, shape: FoldedShape, dim: int) -> None:
        super().__init__()
        self.shape = shape
        width = shape.layer.width
        self.queries = nn.Parameter(torch.empty(shape.queries, width))
        if shape.queries:
            self.values = nn.Parameter(torch.empty(shape.heads, width // shape.heads, width))
            self.out = nn.Parameter(torch.empty(dim, width))
        if shape.mixing:
            self.mixing = nn.Parameter(torch.empty(1, shape.layer.tokens))
            if shape.projected:
                self.project = nn.Parameter(torch.empty(dim, width))

    def forward(self, tokens: LayerTokens) -> Tensor:
        """``[F, d]`` from one layer's tokens, ``codes [F, N, D]``."""
        shape = self.shape
        mixing = self.mixing if shape.mixing else None
        context, mixed, _ = absorbed_pooling(tokens, self.queries, mixing, eps=shape.eps if shape.queries else None)
        total: Tensor | None = None
        if shape.queries:
            summed = context.unflatten(1, (-1, shape.heads)).sum(1)
            attended = torch.einsum("fhd,hed->fhe", summed, self.values).flatten(1)
            total = nn.functional.linear(attended, self.out)
        if shape.mixing:
            share = mixed.squeeze(1)
            share = nn.functional.linear(share, self.project) if shape.projected else share
            total = share if total is None else total + share
        assert total is not None
        return total


class FoldedLCD(nn.Module):
    """What :func:`fold_lcd` makes of an :class:`LCD`: the same function of the tokens, for inference only."""

    def __init__(self, shapes: Sequence[FoldedShape], dim: int) -> None:
        super().__init__()
        self.output_dim = dim
        self.layers = tuple(shape.layer for shape in shapes)
        self.folded = nn.ModuleList(FoldedLayer(shape, dim) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(dim))
        self.requires_grad_(False)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, codes or floats, each ``[B, T, N, D]``; other layers are
        ignored."""
        total: Tensor | None = None
        with torch.autocast(self.bias.device.type, enabled=False):
            for layer, folded in zip(self.layers, self.folded, strict=True):
                stored = tokens[layer.name]
                share = folded(stored.flatten_frames()).unflatten(0, stored.codes.shape[:2])
                total = share if total is None else total + share
        assert total is not None
        return total + self.bias

    def to_json(self) -> dict[str, object]:
        """All but the numbers; :meth:`from_json` is the inverse."""
        return {"dim": self.output_dim, "layers": [asdict(folded.shape) for folded in self.folded]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> FoldedLCD:
        """A module on the meta device, to load weights into.

        Raises
        ------
        ValueError, KeyError, TypeError
            It is not what :meth:`to_json` gives.
        """
        shapes = TypeAdapter(list[FoldedShape]).validate_python(table["layers"])
        with torch.device("meta"):
            return cls(shapes, TypeAdapter(int).validate_python(table["dim"]))


def fold_lcd(lcd: LCD) -> FoldedLCD:
    """Fold a trained LCD; computed in double precision and rounded once to that of the module.

    Raises
    ------
    UsageError
        R is more than 1.
    """
    folded, bias = [], None
    counts = [lcd.distiller_of(layer).count for layer in lcd.layers]
    for layer in lcd.layers:
        distiller, projection = lcd.distiller_of(layer), lcd.projection_of(layer)
        _check_foldable(distiller)
        shape, tensors, constant = _fold_layer(distiller, projection, 1 / sum(counts))
        folded.append((shape, tensors))
        bias = constant if bias is None else bias + constant
    assert bias is not None
    module = FoldedLCD([shape for shape, _ in folded], lcd.output_dim)
    dtype = next(lcd.parameters()).dtype
    state = {"bias": bias.to(dtype)}
    for number, (_, tensors) in enumerate(folded):
        state |= {f"folded.{number}.{name}": tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def _check_foldable(distiller: LayerDistiller) -> None:
    if distiller.options.task_specific and distiller.options.steps > 1:
        raise UsageError(
            f"layer {distiller.layer.name}: LCD with R = {distiller.options.steps} cannot be folded: from the second "
            "step on the queries depend on the tokens",
            hint="train with lcd.steps_visual = 1 and lcd.steps_audio = 1, or keep the run as it is",
        )


@torch.no_grad()
def _fold_layer(
    distiller: LayerDistiller, projection: nn.Linear | None, share: float
) -> tuple[FoldedShape, dict[str, Tensor], Tensor]:
    """Shape, tensors and constant of one layer, ``share`` being the weight of a meta-token in the mean."""
    options, count = distiller.options, distiller.count
    exact = _in_double(distiller)
    project = torch.eye(exact.layer.width, dtype=torch.float64) if projection is None else projection.weight.cpu().double()
    constant = torch.zeros(exact.layer.width, dtype=torch.float64)
    tensors: dict[str, Tensor] = {"queries": torch.empty(0, exact.layer.width)}
    if options.task_specific:
        tensors["queries"] = exact.fold_queries()
        values, shift, out = exact.fold_values()
        tensors |= {"values": values, "out": share * project @ out.weight}
        constant = count * (out.weight @ shift + out.bias)
        if options.residual:
            constant = constant + exact.meta_tokens.sum(0)
    mixing = exact.mixing()
    if mixing is not None:
        row, mixing_bias = mixing
        tensors["mixing"] = row.unsqueeze(0) * (share if projection is None else 1.0)
        constant = constant + mixing_bias
        if projection is not None:
            tensors["project"] = share * project
    constant = project @ constant
    if projection is not None:
        constant = constant + count * projection.bias.cpu().double()
    shape = FoldedShape(
        layer=distiller.layer,
        queries=len(tensors["queries"]),
        heads=options.heads,
        eps=distiller.norm_tokens.eps if options.task_specific and options.norm else None,
        mixing=mixing is not None,
        projected=projection is not None,
    )
    return shape, tensors, share * constant
