"""LCD with one distillation step, folded for inference (docs/design.md, "Folding heads of one step").

With R = 1 the queries do not depend on the tokens, so :func:`fold_lcd` computes once what only weights enter:

- ``W_Q``, ``W_K``, the meta-tokens and both norms' weights become K H query vectors a layer;
- ``W_O`` if there is one, the layer's projection and the mean over layers and meta-tokens become one matrix ``[d, D]``,
  and all biases of all layers one vector ``[d]``;
- the K rows of the mixing branch become one, because only their sum is used.

``W_V`` stays, with the norm's weight in it: merged with ``W_O`` it would take H matrices ``[d, D]``. Equal to the
module to rounding, on floats and on the codes of every codec (tests/methods/test_folded.py).

From a file that ``mettle export`` wrote::

    from mettle_cache.methods.folded import load_folded

    visual = load_folded("runs/ave-swinv2_l-htsat-ave-swin-htsat-0/folded.safetensors")["visual"]
    features = visual(store.read([0]).layers)  # [clip, T, d], from int8 codes
    features = visual({name: LayerTokens(x, FLOATS) for name, x in floats.items()})  # or from a backbone's floats

Shapes: B clips, T segments, F = B T frames, N tokens, D channels, K meta-tokens, H heads, d output channels.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mettle_cache.errors import RunError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.methods.lcd import LCD
from mettle_cache.sealing import seal_fits
from mettle_cache.tokens import LayerTokens

FOLDED_FORMAT = "mettle-folded-1"
_AGAIN = "write it again with: mettle export RUN"


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
        eps, contexts = (shape.eps, shape.heads) if shape.queries else (None, 0)
        context, mixed = absorbed_pooling(tokens, self.queries, mixing, eps=eps, contexts=contexts)
        total: Tensor | None = None
        if shape.queries:
            attended = torch.einsum("fhd,hed->fhe", context, self.values).flatten(1)
            total = nn.functional.linear(attended, self.out)
        if shape.mixing:
            share = mixed.squeeze(1)
            share = nn.functional.linear(share, self.project) if shape.projected else share
            total = share if total is None else total + share
        assert total is not None
        return total


class FoldedLCD(nn.Module):
    """The same function of the tokens as the LCD that it was made from, for inference only."""

    def __init__(self, shapes: Sequence[FoldedShape], dim: int) -> None:
        super().__init__()
        self.output_dim = dim
        self.layers = tuple(shape.layer for shape in shapes)
        self.folded = nn.ModuleList(FoldedLayer(shape, dim) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(dim))
        self.requires_grad_(False)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, codes or floats, each ``[B, T, N, D]``; others are ignored."""
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
        return {"dim": self.output_dim, "layers": [asdict(cast(FoldedLayer, folded).shape) for folded in self.folded]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> FoldedLCD:
        """A module on the meta device, to load weights into.

        Raises
        ------
        ValueError, KeyError, TypeError
            It is not what :meth:`to_json` gives.
        """
        shapes = TypeAdapter(list[FoldedShape]).validate_python(table["layers"])
        with on_meta():
            return cls(shapes, TypeAdapter(int).validate_python(table["dim"]))


def fold_lcd(lcd: LCD) -> FoldedLCD:
    """Fold a trained LCD; computed in double precision and rounded once to that of the module.

    Raises
    ------
    UsageError
        R is more than 1.
    """
    distillers = [cast(LayerDistiller, distiller) for distiller in lcd.distillers.values()]
    projections: list[nn.Linear | None] = [cast(nn.Linear, linear) for linear in lcd.projections.values()]
    projections = projections or [None] * len(distillers)
    share = 1 / sum(distiller.count for distiller in distillers)
    parts = [
        _fold_layer(distiller, projection, share) for distiller, projection in zip(distillers, projections, strict=True)
    ]
    module = FoldedLCD([shape for shape, _, _ in parts], lcd.output_dim)
    state = {"bias": torch.stack([constant for _, _, constant in parts]).sum(0)}
    for number, (_, tensors, _) in enumerate(parts):
        state |= {f"folded.{number}.{name}": tensor for name, tensor in tensors.items()}
    like = distillers[0].unit
    module.load_state_dict({name: tensor.to(like).contiguous() for name, tensor in state.items()}, assign=True)
    return module.requires_grad_(False).eval()


@torch.no_grad()
def _fold_layer(
    distiller: LayerDistiller, projection: nn.Linear | None, share: float
) -> tuple[FoldedShape, dict[str, Tensor], Tensor]:
    """Shape, tensors and constant of one layer, ``share`` being the weight of a meta-token in the mean."""
    options, layer, count = distiller.options, distiller.layer, distiller.count
    if options.task_specific and distiller.steps > 1:
        raise UsageError(
            f"layer {layer.name}: LCD with R = {distiller.steps} cannot be folded: from its second step on the queries "
            "depend on the tokens",
            hint="train with lcd.steps_visual = 1 and lcd.steps_audio = 1, or use the run as it is",
        )
    exact = copy.deepcopy(distiller).cpu().double()
    project = torch.eye(layer.width).double() if projection is None else projection.weight.cpu().double()
    # what every frame gets, before the projection and as a sum over the meta-tokens
    constant = project.new_zeros(layer.width)
    tensors = {"queries": project.new_empty(0, layer.width)}
    if options.task_specific:
        out = exact.output_projection()
        tensors["queries"] = exact.absorbed_queries(exact.meta_tokens)
        tensors["values"], shift = _fold_values(exact)
        tensors["out"] = share * (project if out is None else project @ out.weight)
        constant += count * (shift if out is None else out.weight @ shift + out.bias)
        constant += exact.meta_tokens.sum(0) if options.residual else 0
    mixing = exact.mixing()
    if mixing is not None:
        tensors["mixing"] = mixing.sum(0, keepdim=True)
        constant += exact.mix.bias.sum() if options.pretrained_branch == "linear" else 0
        # the width of the layer is the common one where nothing projects
        tensors |= {"project": share * project} if projection is not None else {}
        tensors["mixing"] *= 1 if projection is not None else share
    constant = project @ constant + (0 if projection is None else count * projection.bias.cpu().double())
    shape = FoldedShape(
        layer=layer,
        queries=len(tensors["queries"]),
        heads=options.heads,
        eps=exact.norm_tokens.eps if options.task_specific and options.norm else None,
        mixing=mixing is not None,
        projected=projection is not None,
    )
    return shape, tensors, share * constant


def _fold_values(distiller: LayerDistiller) -> tuple[Tensor, Tensor]:
    """``W_V`` by head, ``[H, D/H, D]``, with the norm's weight in it; what its and the norm's biases give, ``[D]``."""
    values, shift = distiller.value_projection()
    if distiller.options.norm:
        shift = shift + values @ distiller.norm_tokens.bias
        values = values * distiller.norm_tokens.weight
    return values.unflatten(0, (distiller.options.heads, -1)), shift


def load_folded(path: Path) -> dict[str, FoldedLCD]:
    """The folded LCDs of a file that ``mettle export`` wrote, by their place in the model: ``visual`` and ``audio``.

    Raises
    ------
    RunError
        The file is missing, damaged, or something else.
    """
    tensors, table = read_folded(path)
    try:
        modules = {name: FoldedLCD.from_json(shapes) for name, shapes in table["folded"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: its description of the folded layers is damaged ({error})") from error
    for name, module in modules.items():
        start = f"{name}."
        state = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        expected = {key: value.shape for key, value in module.state_dict().items()}
        if expected != {key: value.shape for key, value in state.items()}:
            raise RunError(f"{path}: the tensors of {name} are not those of its description", hint=_AGAIN)
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
    return modules


def read_folded(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of such a file, those that are not folded included, and its description.

    Raises
    ------
    RunError
        As :func:`load_folded`.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no exported head", hint="write it with: mettle export RUN")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        table = json.loads(metadata[FOLDED_FORMAT]) if FOLDED_FORMAT in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: the exported head is damaged ({error})", hint=_AGAIN) from error
    if not isinstance(table, dict):
        raise RunError(f"{path}: this is not an exported head of format {FOLDED_FORMAT}", hint=_AGAIN)
    if not seal_fits(tensors, table):
        raise RunError(f"{path}: the exported head is damaged (its digest is another one)", hint=_AGAIN)
    return tensors, table
