"""What a logger is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Status = Literal["finished", "failed", "stopped"]
"""How a training ended: ``stopped`` is Ctrl-C, after which it may go on."""
Setting = str | int | float | bool
Picture = NDArray[np.uint8]
"""``[height, width, 3]``, red, green and blue."""


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """The run that a logger is made for.

    ``folder`` is its place on this disk, ``name`` and ``group`` are for people. ``settings`` are the recipe's keys, the
    seed, and what the store is. ``identity`` is that of the logger that an earlier process had for this run: empty
    for a new run.
    """

    folder: Path
    name: str
    group: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    identity: str = ""


class Logger(Protocol):
    """Takes what one run has to show. A method that raises is the last one that is called; the training goes on."""

    @property
    def identity(self) -> str:
        """What finds this run again in the service when it is resumed; empty where the folder does."""

    def scalars(self, values: Mapping[str, float], *, step: int) -> None:
        """Numbers at an optimiser step, counted over the whole run: ``step/loss``, ``epoch/val_accuracy``."""

    def images(self, pictures: Mapping[str, Picture], *, step: int) -> None:
        """Pictures by name at an optimiser step."""

    def close(self, scores: Mapping[str, float], status: Status) -> None:
        """The end, with the scores of the best epoch, which belong beside the run's settings."""


class LoggerKind(Protocol):
    """What a logger's registry row stands for: makes one for a run."""

    def __call__(self, run: LoggedRun) -> Logger: ...
