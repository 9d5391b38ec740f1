"""Starting a sweep file on a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport
from mettle_cache.pipelines.report.units import count
from mettle_cache.pipelines.sweeps.on_store import plan_rows
from mettle_cache.pipelines.sweeps.record import check_record, write_record
from mettle_cache.pipelines.sweeps.sweep_file import Sweep
from mettle_cache.pipelines.train.config import SelectOn, TrainJob
from mettle_cache.pipelines.train.job import open_for, start_group, store_name
from mettle_cache.pipelines.train.passes import PassPlan, plan_passes
from mettle_cache.pipelines.train.run_folder import check_claim
from mettle_cache.pipelines.train.spec import RunSpec, parse_seeds
from mettle_cache.pipelines.train.training import RUNS, run_config
from mettle_cache.store.reading.token_store import TokenStore


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would train on a store, and in which passes."""

    sweep: Sweep
    recipe: str
    folder: Path
    specs: list[RunSpec]
    passes: PassPlan

    def to_json(self) -> dict[str, object]:
        return {
            "sweep": self.sweep.name,
            "recipe": self.recipe,
            "folder": str(self.folder),
            "heads": [{"out": str(spec.out), "row": spec.variant, "seed": spec.seed} for spec in self.specs],
            "passes": [
                {"heads": [str(spec.out) for spec in one], "memory_bytes": needed}
                for one, needed in zip(self.passes.passes, self.passes.needed, strict=True)
            ],
            "memory_limit_bytes": self.passes.limit,
            "notes": self.passes.notes(),
        }


def start_sweep_file(
    job: TrainJob,
    sweep: Sweep,
    progress: Progress,
    *,
    common: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> GroupReport:
    """Train the rows of a sweep; each run is ``OUT/ROW/seed-N``. ``job.overrides`` and ``job.seed`` are ignored.

    Parameters
    ----------
    common, rows
        As ``common`` and ``only`` of :func:`~mettle_cache.pipelines.sweeps.on_store.plan_rows`.
    seeds
        None: those of the file.

    Raises
    ------
    UsageError, ConfigError, StoreError
        As :func:`~mettle_cache.pipelines.sweeps.on_store.plan_rows` and :meth:`TrainJob.check`.
    RunError
        The folder holds another sweep, or other runs in the places of these.
    """
    progress = Logged.over(progress)
    store, recipe, folder, specs = _specs(job, sweep, common, rows, seeds, progress)
    _check_claims(job, store, specs)
    write_record(folder, sweep)
    progress.note(f"sweep {sweep.name}, recipe {recipe}, {count(len(specs), 'head')}: see {folder}")
    return start_group(job, store, specs, folder, progress)


def plan_sweep_file(
    job: TrainJob,
    sweep: Sweep,
    progress: Progress,
    *,
    common: Sequence[str] = (),
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> SweepPlan:
    """As :func:`start_sweep_file`, but nothing is trained and nothing written."""
    store, recipe, folder, specs = _specs(job, sweep, common, rows, seeds, progress)
    if job.resume:
        _check_claims(job, store, specs)
    passes = plan_passes(specs, store, device=job.device, memory=job.memory, progress=progress)
    return SweepPlan(sweep, recipe, folder, specs, passes)


def _check_claims(job: TrainJob, store: TokenStore, specs: Sequence[RunSpec]) -> None:
    """Make sure that every head may be trained in its folder, before any is. Raises as :func:`start_sweep_file`."""
    select_on = cast(SelectOn, job.select_on or "val")
    for spec in specs:
        check_claim(spec.out, run_config(spec, select_on, store), resume=job.resume)


def _specs(
    job: TrainJob,
    sweep: Sweep,
    common: Sequence[str],
    rows: Sequence[str],
    seeds: Sequence[int] | None,
    progress: Progress,
) -> tuple[TokenStore, str, Path, list[RunSpec]]:
    """The store, the recipe's name, the sweep's folder and its heads."""
    store, recipe = open_for(job, progress)
    folder = job.out or RUNS / f"{store_name(store)}-{sweep.name}"
    check_record(folder, sweep)
    specs = [
        RunSpec(
            recipe=planned.recipe,
            seed=seed,
            folder=folder,
            name=f"{planned.row.folder}/seed-{seed}",
            variant=planned.row.name,
        )
        for planned in plan_rows(sweep, store, recipe, common=common, only=rows)
        for seed in (parse_seeds(sweep.seeds) if seeds is None else seeds)
    ]
    return store, recipe, folder, specs
