"""A run as a page tells of it: whatever its folder and its store still hold, and in words what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.errors import MettleError, RunError, StoreError
from mettle_cache.pipelines.evaluate.sample_scores import SampleScores, read_sample_scores
from mettle_cache.pipelines.tables.scored_runs import ScoredRun, read_scored_run
from mettle_cache.pipelines.train.history import EpochRow, parse_history
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder

# a mask is a few kB
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PageRun:
    """One run; everything but ``config`` may be missing, and ``lacks`` says why.

    ``scored`` is None where the run was not evaluated on the split, or was trained on since. ``epochs`` are the rows of
    ``metrics.csv``, ``training`` what training left in ``result.json``.
    """

    path: Path
    label: str
    config: RunConfig
    training: Mapping[str, Any]
    epochs: list[EpochRow]
    scored: ScoredRun | None
    predictions: pa.Table | None
    samples: SampleScores | None
    lacks: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return str(self.config.recipe["task"])

    @property
    def dataset(self) -> str:
        return self.config.store.dataset

    @property
    def method(self) -> str:
        return str(self.config.recipe["method"])

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """What evaluation left; empty where the run has no scores."""
        return self.scored.evaluation if self.scored else {}

    def read_artefact(self, split: str, name: str) -> bytes | None:
        """A picture that evaluation drew; None where it is not there. It is in no record, so anything may be."""
        folder = RunFolder(self.path).artefacts(split).resolve()
        place = (folder / name).resolve()
        if not place.is_relative_to(folder) or not place.is_file() or place.stat().st_size > _MOST_BYTES:
            return None
        return place.read_bytes()


def read_run(path: Path, label: str, split: str) -> PageRun:
    """The run in a folder.

    Raises
    ------
    RunError
        There is none, or its record or its result is damaged: then nothing of it can be told.
    """
    place = RunFolder(path)
    config = place.read_config()
    scored = read_scored_run(path, split)
    lacks: list[str] = []
    epochs = _read_epochs(place, lacks)
    predictions = None if scored is None else _read_predictions(place, split, lacks)
    samples = None
    if scored is not None:
        try:
            samples = read_sample_scores(place, split)
        except RunError as error:
            lacks.append(error.message)
    return PageRun(
        path=path,
        label=label,
        config=config,
        training=place.read_result().get("training", {}),
        epochs=epochs,
        scored=scored,
        predictions=predictions,
        samples=samples,
        lacks=lacks,
    )


def _read_epochs(place: RunFolder, lacks: list[str]) -> list[EpochRow]:
    if not place.has(place.metrics):
        lacks.append("no epoch is finished, so there are no curves")
        return []
    try:
        return parse_history(place.check(place.metrics).read_bytes())
    except (MettleError, OSError, ValueError) as error:
        lacks.append(f"no curves: {getattr(error, 'message', error)}")
        return []


def _read_predictions(place: RunFolder, split: str, lacks: list[str]) -> pa.Table | None:
    path = place.predictions(split)
    if not place.has(path):
        lacks.append("no predictions are kept, so single samples are not shown: evaluate it again")
        return None
    try:
        return pq.read_table(place.check(path))
    except (RunError, OSError, ValueError, pa.ArrowException) as error:
        lacks.append(f"single samples are not shown: {getattr(error, 'message', error)}")
        return None


@dataclass(frozen=True, kw_only=True)
class PageStore:
    """A store's facts as :func:`~mettle_cache.store.catalog.describe_store` gives them, and its samples."""

    path: Path
    facts: Mapping[str, Any]
    samples: pa.Table


def read_store(run: PageRun, instead: Path | None) -> PageStore | str:
    """The store that a run was trained from; where it cannot be told of, why."""
    from mettle_cache.store.catalog import describe_store
    from mettle_cache.store.format.metadata import load_metadata

    path = instead or Path(run.config.store.path)
    try:
        facts = describe_store(path)
        if facts["key_digest"] != run.config.store.key_digest:
            return f"another store lies at {path.name}: its key is {facts['key_digest']}; --store names the run's own"
        return PageStore(path=path, facts=facts, samples=load_metadata(path).read_samples())
    except StoreError as error:
        if run.config.store.computed is not None:
            return f"it was trained without a store, so nothing of one is told ({path.name} would be it)"
        return f"the store {path.name} cannot be told of ({error.message}); --store names its new place"
