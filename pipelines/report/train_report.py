"""What a training run reports when it is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """The outcome of a run. ``selected_on`` is what picked ``best_epoch`` (counted from 1), with its ``best_score``.

    ``best_score`` is None where nothing was scored. ``clips_per_second`` covers the optimiser steps of this process,
    0 where there were none; ``history`` holds the rows of metrics.csv; ``comparable`` is False where samples
    are missing; ``notes`` are the sentences that a reader of the numbers has to know.

    Of heads that shared a pass, ``variant`` tells this one from the others, ``clips_per_second`` is that of all of them
    together, and ``failure`` is what ended this one before its last epoch, None where nothing did.
    """

    out: Path
    recipe: str
    seed: int
    epochs: int
    selected_on: str
    metric: str
    best_epoch: int
    best_score: float | None
    parameters: int
    samples: dict[str, int]
    dropped: dict[str, int]
    comparable: bool
    clips_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variant: str = ""
    failure: str | None = None

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "out": str(self.out)}
