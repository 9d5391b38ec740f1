"""What ``mettle train`` was asked for, with everything left out filled in from the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from mettle_cache.errors import StoreMissingError, UsageError
from mettle_cache.store import TokenStore, find_stores
from pipelines.progress import Progress
from pipelines.recipe import default_recipe, load_recipe
from pipelines.runfolder import SelectOn
from pipelines.train import train_run
from pipelines.train_report import TrainReport

CACHE = Path("cache")
RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A training request; None means that the store decides."""

    store: Path | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    select_on: str = "val"
    device: str | None = None


def start_training(job: TrainJob, progress: Progress) -> TrainReport:
    """Open the store, choose the recipe and the run's folder, and train.

    Raises
    ------
    StoreMissingError
        No store was named and none is finished under ``cache/``.
    UsageError
        ``select_on`` is no rule of selection.
    """
    if job.select_on not in get_args(SelectOn):
        raise UsageError(f"--select-on {job.select_on}: choose one of {', '.join(get_args(SelectOn))}")
    path = job.store or newest_store(CACHE)
    store = TokenStore.open(path)
    recipe = load_recipe(job.recipe or default_recipe(store), list(job.overrides))
    out = job.out or RUNS / f"{path.stem}-{recipe.name}-{job.seed}"
    progress.note(f"store {path}, recipe {recipe.name}, seed {job.seed}, run {out}")
    return train_run(
        store,
        recipe=recipe,
        out=out,
        seed=job.seed,
        select_on=cast(SelectOn, job.select_on),
        resume=job.resume,
        device=job.device,
        progress=progress,
    )


def newest_store(folder: Path) -> Path:
    """The newest finished store in a folder."""
    stores = find_stores(folder)
    if not stores:
        raise StoreMissingError(
            f"there is no finished store under {folder}/",
            hint="make one with: mettle extract --dataset ave, or name one: mettle train --from-cache STORE",
        )
    return stores[0]
