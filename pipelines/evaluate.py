"""Score a run on a split, in one pass, and say what separates the number from the paper's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from mettle_cache.errors import UsageError
from mettle_cache.tasks.protocol import Predictions, Task
from pipelines.atomic import write_atomically
from pipelines.binding import bind_task, choose_device, predict_split
from pipelines.checkpoint import file_digest, load_checkpoint
from pipelines.comparison import compare_with_paper
from pipelines.feed import Feed, Split, read_split
from pipelines.progress import Progress, Silent
from pipelines.recipe_types import Recipe
from pipelines.reproducible import fix_summation_order
from pipelines.runfolder import RunConfig, RunFolder, hold_run
from pipelines.runstore import open_run_store
from pipelines.trainee import Trainee

if TYPE_CHECKING:
    from mettle_cache.store.reader import TokenStore


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """Scores of a run on a split.

    ``floors`` are what predictions without a model reach; ``details`` are the task's own. ``paper`` is the published
    row of these backbones, or of the task's best setting where there is none, and ``differs`` lists in sentences what
    separates this run from it. ``times_evaluated`` counts the evaluations of this split, this one included.
    """

    run: Path
    split: str
    samples: int
    dropped: int
    metric: str
    scores: dict[str, float]
    floors: dict[str, float]
    details: dict[str, object]
    paper: dict[str, object]
    differs: list[str]
    comparable: bool
    selected_on: str
    best_epoch: int
    times_evaluated: int
    predictions: Path
    store: Path
    store_digest: str
    checkpoint_digest: str

    def to_json(self) -> dict[str, object]:
        paths = {name: str(getattr(self, name)) for name in ("run", "predictions", "store")}
        return {**asdict(self), **paths}


def evaluate_run(
    run: Path,
    *,
    split: str = "test",
    store: Path | TokenStore | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score the best epoch of ``run``; writes ``predictions-SPLIT.parquet`` and adds to ``result.json``.

    Parameters
    ----------
    store
        The store to read, where it is no longer at the path that the run remembers. It must have the key of the
        store that the run was trained from: other tokens would give a number that means nothing.

    Raises
    ------
    RunError
        The run is missing, damaged, has no finished epoch, or was trained from another store.
    StoreMissingError
        The run's store is not where it was.
    UsageError
        The split has no samples.
    """
    progress = progress or Silent()
    fix_summation_order()
    config = RunFolder(run).read_config()
    recipe = config.load_recipe()
    with hold_run(run) as folder:
        tensors, state = load_checkpoint(folder.best)
        opened = open_run_store(config, store, run)
        task, chosen = bind_task(recipe, opened), read_split(opened, split)
        if not chosen.rows:
            raise UsageError(f"{opened.path}: the {split} split has no samples with tokens", hint="mettle info STORE")
        trainee = Trainee(task, recipe.train, seed=config.seed, device=choose_device(device))
        trainee.load_weights(tensors, where=folder.best)
        feed = Feed(opened, task.layers, device=trainee.device, threads=threads)
        progress.start(len(chosen), "clips", f"evaluate {split}")
        predictions = predict_split(trainee, feed, chosen, recipe.train.batch_size, progress)
        progress.finish()
        report = _report(_Scored(folder, config, opened, task, chosen, predictions), recipe, epoch=int(state["epoch"]))
        table = task.prediction_table(predictions, chosen.rows)
        write_atomically(report.predictions, lambda partial: pq.write_table(table, partial), needed=table.nbytes)
        folder.update_result({"evaluation": {**_earlier(folder), split: report.to_json()}})
    return report


@dataclass(frozen=True)
class _Scored:
    """A run's predictions for one split, and where they come from."""

    folder: RunFolder
    config: RunConfig
    store: TokenStore
    task: Task
    split: Split
    predictions: Predictions


def _report(scored: _Scored, recipe: Recipe, *, epoch: int) -> EvaluateReport:
    folder, store, task, split = scored.folder, scored.store, scored.task, scored.split
    # what selected the epoch in fact: a store without val samples makes the last one the best
    selected_on = scored.config.select_on if read_split(store, scored.config.select_on).rows else "last"
    comparison = compare_with_paper(task, recipe, store, split, selected_on=selected_on)
    return EvaluateReport(
        run=folder.path,
        split=split.name,
        samples=len(split),
        dropped=len(split.dropped),
        metric=task.metric,
        scores=task.score(scored.predictions, split.rows),
        floors=task.floors(split.rows),
        details=task.details(scored.predictions, split.rows),
        paper=comparison.paper_json(),
        differs=comparison.differs,
        comparable=not split.dropped and not read_split(store, "train").dropped,
        selected_on=selected_on,
        best_epoch=epoch,
        times_evaluated=int(_earlier(folder).get(split.name, {}).get("times_evaluated", 0)) + 1,
        predictions=folder.predictions(split.name),
        store=Path(store.path),
        store_digest=store.key_digest,
        checkpoint_digest=file_digest(folder.best),
    )


def _earlier(folder: RunFolder) -> dict[str, Any]:
    """Evaluations that ``result.json`` holds already, by split."""
    return dict(folder.read_result().get("evaluation", {}))
