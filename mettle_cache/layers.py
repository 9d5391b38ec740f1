"""The table of a backbone's layers, and the selections that users make from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from mettle_cache.errors import UsageError

MODALITIES = ("visual", "audio")
PYRAMID_LEVELS = 4
EMBED = "embed"
# where single tokens are many and narrow, neighbours are alike and a basis over four of them is still small
CELL, FEWEST_CELL_TOKENS, WIDEST_CELL = 2, 512, 1536


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One block's output, taken before the next patch merging.

    ``stage`` and ``block`` count from 1, ``block`` within its stage; block 0 of stage 1 is what enters the first block,
    the output of the patch embedding with positions. ``grid`` is the token grid (rows, columns) without
    class tokens; ``tokens`` is N with them, ``width`` is D. ``cell`` is the side of the squares of tokens that a codec
    with cells (``klt``) encodes together; 1 for single tokens, as every other codec takes them.
    """

    modality: str
    stage: int
    block: int
    grid: tuple[int, int]
    tokens: int
    width: int
    cell: int = 1

    @property
    def name(self) -> str:
        """For example ``visual/s3b07``."""
        return f"{self.array}b{self.block:02d}"

    @property
    def array(self) -> str:
        """The stage array that holds this layer in a store, for example ``visual/s3``."""
        return f"{self.modality}/s{self.stage}"

    def to_json(self) -> dict[str, object]:
        fields = {**asdict(self), "grid": list(self.grid), "name": self.name}
        # only where there are any, so that other layers are told as they were before there were cells
        return {name: value for name, value in fields.items() if name != "cell" or value != 1}


def group_by_array(layers: Iterable[LayerSpec]) -> dict[str, tuple[LayerSpec, ...]]:
    """Layers by stage array, both in table order."""
    groups: dict[str, list[LayerSpec]] = {}
    for layer in layers:
        groups.setdefault(layer.array, []).append(layer)
    return {array: tuple(members) for array, members in groups.items()}


def with_cells(layers: Iterable[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers as codecs with cells store them for heads that read every token.

    Cells of 2 x 2 tokens for fine stages: at least 512 tokens, in a grid of even sides without class tokens, and at
    most 384 channels. Others keep single tokens. docs/codecs.md says what cells gain.
    """
    return tuple(replace(layer, cell=CELL) if _takes_cells(layer) else layer for layer in layers)


def _takes_cells(layer: LayerSpec) -> bool:
    rows, columns = layer.grid
    fine = layer.tokens >= FEWEST_CELL_TOKENS and layer.width * CELL**2 <= WIDEST_CELL
    return fine and layer.tokens == rows * columns and not (rows % CELL or columns % CELL)


def select_layers(layers: Sequence[LayerSpec], selection: str) -> tuple[LayerSpec, ...]:
    """Layers that a selection names, in table order.

    Parameters
    ----------
    selection
        Parts separated by commas, each ``all`` (every block), ``embed`` (the patch embedding), ``stages`` (the last
        block of each stage), ``pyramid`` (those of the last four stages or, where a backbone is one stage, of the four
        quarters of its blocks), ``pyramid:N`` (the Nth of these four, counted from 1, fine to coarse), ``last:N`` (the
        last N blocks), any of them of one modality (``visual/stages``, ``audio/last:1``), a layer (``visual/s3b07``), a
        stage (``visual/s3``) or a modality (``audio``). Only ``embed`` and its own name (``visual/s1b00``) select the
        patch embedding.

    Raises
    ------
    UsageError
        A name that no layer has, an N out of range, or an empty selection.
    """
    parts = [part.strip() for part in selection.split(",") if part.strip()]
    chosen = [_select_part(layers, part) for part in parts]
    unknown = [part for part, matches in zip(parts, chosen, strict=True) if not matches]
    if unknown or not parts:
        known = sorted({name for layer in layers for name in (layer.name, layer.array, layer.modality)})
        raise UsageError(
            f"layers '{selection}': no such layer: {', '.join(unknown) or '(nothing named)'}",
            hint=f"use all, embed, stages, pyramid, pyramid:N, last:N, or names such as {', '.join(known[:4])}",
        )
    names = {layer.name for matches in chosen for layer in matches}
    return tuple(layer for layer in layers if layer.name in names)


def _select_part(layers: Sequence[LayerSpec], part: str) -> list[LayerSpec]:
    """The layers of one part of a selection; none where nothing has that name."""
    modality, slash, rule = part.rpartition("/")
    offered = [layer for layer in layers if layer.modality == modality] if slash else list(layers)
    candidates = [layer for layer in offered if layer.block]
    if rule in ("all", EMBED):
        return candidates if rule == "all" else [layer for layer in offered if not layer.block]
    if rule == "stages":
        return [members[-1] for members in group_by_array(candidates).values()]
    if rule == "pyramid":
        return [layer for levels in _pyramids(candidates) for layer in levels]
    if rule.startswith("pyramid:"):
        back = PYRAMID_LEVELS + 1 - _number(rule, part, PYRAMID_LEVELS)
        return [levels[-back] for levels in _pyramids(candidates) if len(levels) >= back]
    if rule.startswith("last:"):
        return _select_last(candidates, part)
    return [layer for layer in layers if part == layer.name or (layer.block and part in (layer.array, layer.modality))]


def asks_for_embedding(selection: str, modality: str) -> bool:
    """Whether a selection names the patch embedding of a modality, which backbones give only where they are asked."""
    parts = {part.strip() for part in selection.split(",")}
    return not parts.isdisjoint({EMBED, f"{modality}/{EMBED}", f"{modality}/s1b00"})


def _pyramids(layers: Sequence[LayerSpec]) -> list[list[LayerSpec]]:
    """The pyramid of each modality."""
    return [_pyramid([layer for layer in layers if layer.modality == modality]) for modality in MODALITIES]


def _pyramid(layers: list[LayerSpec]) -> list[LayerSpec]:
    """Four layers of one modality for a head that wants several depths, fewer where there are not four."""
    stages = [members[-1] for members in group_by_array(layers).values()]
    if len(stages) > 1:
        return stages[-PYRAMID_LEVELS:]
    quarters = range(1, PYRAMID_LEVELS + 1)
    # a selection that holds the four beside other layers, such as visual/pyramid,visual/last:6, keeps its four
    whole = {layers[-1].block * quarter // PYRAMID_LEVELS for quarter in quarters} if layers else set()
    if len(whole) == PYRAMID_LEVELS and whole <= {layer.block for layer in layers}:
        return [layer for layer in layers if layer.block in whole]
    ends = [len(layers) * quarter // PYRAMID_LEVELS for quarter in quarters]
    return [layers[end - 1] for end in ends if end]


def _select_last(layers: Sequence[LayerSpec], part: str) -> list[LayerSpec]:
    groups = {modality: [layer for layer in layers if layer.modality == modality] for modality in MODALITIES}
    longest = max(map(len, groups.values()))
    count = _number(part.rpartition("/")[2], part, longest)
    return [layer for members in groups.values() for layer in members[-count:]]


def _number(rule: str, part: str, most: int) -> int:
    """N of a rule such as ``last:N``, from 1 on; ``part`` is what the user wrote."""
    name, _, text = rule.partition(":")
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= most:
        raise UsageError(f"layers '{part}': N in {name}:N must be from 1 to {most}")
    return number
