"""Starting what a request asks for: one run, seeds, or a sweep. What it leaves out follows from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mettle_cache.errors import RunError
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
from mettle_cache.pipelines.train.config import SelectOn, TrainJob, choose_store
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.spec import RunSpec, Variant
from mettle_cache.pipelines.train.training import RUNS, default_run_folder, train, train_runs
from mettle_cache.store import TokenStore


def start_training(job: TrainJob, progress: Progress) -> TrainReport:
    """Open the store, choose the recipe and the run's folder, and train.

    Raises
    ------
    UsageError, StoreMissingError
        As :meth:`TrainJob.check`.
    """
    store, name = _open(job, progress)
    recipe = load_recipe(name, list(job.overrides))
    out = job.out or default_run_folder(store, recipe, job.seed)
    progress.note(f"store {store.path}, recipe {recipe.name}, seed {job.seed}, run {out}")
    return train(
        store,
        recipe=recipe,
        out=out,
        seed=job.seed,
        select_on=cast(SelectOn, job.select_on),
        resume=job.resume,
        device=job.device,
        progress=progress,
    )


def start_seeds(job: TrainJob, seeds: Sequence[int], progress: Progress) -> GroupReport:
    """As :func:`start_training`, for several seeds in one pass; each run is ``OUT/seed-N``, ``job.seed`` is ignored."""
    store, name = _open(job, progress)
    recipe = load_recipe(name, list(job.overrides))
    folder = job.out or RUNS / f"{_stem(store)}-{recipe.name}"
    specs = [RunSpec(recipe=recipe, seed=seed, folder=folder, name=f"seed-{seed}") for seed in seeds]
    return _start_group(job, store, specs, folder, progress)


def start_sweep(job: TrainJob, variants: Sequence[Variant], seeds: Sequence[int], progress: Progress) -> GroupReport:
    """As :func:`start_seeds`, for every variant; each run is ``OUT/VARIANT/seed-N``.

    ``job.overrides`` is ignored: the variants hold all overrides.
    """
    store, name = _open(job, progress)
    folder = job.out or RUNS / f"{_stem(store)}-{Path(name).stem}-sweep"
    specs = [
        RunSpec(
            recipe=load_recipe(name, list(variant.overrides)),
            seed=seed,
            folder=folder,
            name=f"{variant.name}/seed-{seed}",
            variant=variant.text,
        )
        for variant in variants
        for seed in seeds
    ]
    return _start_group(job, store, specs, folder, progress)


def _start_group(
    job: TrainJob, store: TokenStore, specs: Sequence[RunSpec], folder: Path, progress: Progress
) -> GroupReport:
    if RunFolder(folder).config.exists():
        raise RunError(f"{folder}: this is the folder of one run", hint="choose another folder for several with --out")
    recipe = specs[0].recipe.name if specs else ""
    progress.note(f"store {store.path}, recipe {recipe}, {len(specs)} heads from one pass, runs under {folder}")
    return train_runs(
        store,
        specs,
        select_on=cast(SelectOn, job.select_on),
        resume=job.resume,
        device=job.device,
        progress=progress,
    )


def _open(job: TrainJob, progress: Progress) -> tuple[TokenStore, str]:
    """The store and the recipe's name."""
    job.check()
    if job.recipe is not None:
        load_recipe(job.recipe)  # what is wrong with it shows before the store is read
    path, notes = choose_store(job.store)
    for note in notes:
        progress.note(note)
    store = TokenStore.open(path)
    return store, job.recipe or default_recipe(store)


def _stem(store: TokenStore) -> str:
    return Path(store.path).stem
