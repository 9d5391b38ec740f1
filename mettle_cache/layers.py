"""The table of a backbone's layers, and the selections that users make from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from mettle_cache.errors import UsageError

MODALITIES = ("visual", "audio")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One block's output, taken before the next patch merging.

    ``stage`` and ``block`` count from 1, ``block`` within its stage. ``grid`` is the token grid (rows, columns) without
    class tokens; ``tokens`` is N with them, ``width`` is D.
    """

    modality: str
    stage: int
    block: int
    grid: tuple[int, int]
    tokens: int
    width: int

    @property
    def name(self) -> str:
        """For example ``visual/s3b07``."""
        return f"{self.array}b{self.block:02d}"

    @property
    def array(self) -> str:
        """The stage array that holds this layer in a store, for example ``visual/s3``."""
        return f"{self.modality}/s{self.stage}"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "grid": list(self.grid), "name": self.name}


def group_by_array(layers: Iterable[LayerSpec]) -> dict[str, tuple[LayerSpec, ...]]:
    """Layers by stage array, both in table order."""
    groups: dict[str, list[LayerSpec]] = {}
    for layer in layers:
        groups.setdefault(layer.array, []).append(layer)
    return {array: tuple(members) for array, members in groups.items()}


def select_layers(layers: Sequence[LayerSpec], selection: str) -> tuple[LayerSpec, ...]:
    """Layers that a selection names, in table order.

    Parameters
    ----------
    selection
        ``all``; ``stages`` (the last block of each stage); ``last:N`` (the last N blocks of each modality); or names
        separated by commas, each a layer (``visual/s3b07``), a stage (``visual/s3``) or a modality (``audio``).

    Raises
    ------
    UsageError
        A name that no layer has, an N out of range, or an empty selection.
    """
    if selection == "all":
        return tuple(layers)
    if selection == "stages":
        return tuple(members[-1] for members in group_by_array(layers).values())
    if selection.startswith("last:"):
        return _select_last(layers, selection)
    return _select_named(layers, selection)


def _select_last(layers: Sequence[LayerSpec], selection: str) -> tuple[LayerSpec, ...]:
    modalities = {layer.modality: 0 for layer in layers}
    for layer in layers:
        modalities[layer.modality] += 1
    longest = max(modalities.values(), default=0)
    text = selection.removeprefix("last:")
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= longest:
        raise UsageError(f"layers '{selection}': N in last:N must be from 1 to {longest}")
    chosen: list[LayerSpec] = []
    for modality in modalities:
        chosen += [layer for layer in layers if layer.modality == modality][-count:]
    return tuple(chosen)


def _select_named(layers: Sequence[LayerSpec], selection: str) -> tuple[LayerSpec, ...]:
    wanted = [name.strip() for name in selection.split(",") if name.strip()]
    known = {layer.name for layer in layers} | {layer.array for layer in layers} | {layer.modality for layer in layers}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise UsageError(
            f"layers '{selection}': no such layer: {', '.join(unknown) or '(nothing named)'}",
            hint=f"use all, stages, last:N, or names such as {', '.join(sorted(known)[:4])}",
        )
    chosen = set(wanted)
    return tuple(layer for layer in layers if {layer.name, layer.array, layer.modality} & chosen)
