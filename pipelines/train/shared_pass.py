"""What the runs of one pass over the samples have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.train.residency import Residence
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split
from mettle_cache.pipelines.train.step_graph import StaticBatch


@dataclass(frozen=True, kw_only=True)
class SharedPass:
    """What all runs of a pass share, such as their batches.

    ``residence`` is where tokens stay, None where nobody chose; ``training_bytes`` are foretold for training beside
    them, 0 where they are not. ``static`` holds the batches that heads replay their steps on; None: steps as they are.
    """

    loader: SampleLoader
    batch_size: int
    order_seed: int
    train: Split
    selection: Split | None
    progress: Logged
    residence: Residence | None = None
    training_bytes: int = 0
    static: StaticBatch | None = None

    @property
    def foretold_bytes(self) -> int:
        """Memory that training and tokens that stay are foretold to take on the device that trains."""
        residence = self.residence
        there = ("device", "memory") if self.loader.device.type == "cpu" else ("device",)
        return self.training_bytes + (residence.nbytes if residence and residence.tier in there else 0)

    def residence_notes(self, runs: Sequence[Run]) -> list[str]:
        """Where the tokens stay, for people."""
        return [self.residence.describe(max(run.options.epochs for run in runs))] if self.residence else []

    @property
    def steps(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.train) // self.batch_size)
