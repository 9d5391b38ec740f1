"""Starting what a request asks for: one run, seeds, or a sweep. What it leaves out follows from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

from mettle_cache.errors import RunError
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
from mettle_cache.pipelines.report.units import count
from mettle_cache.pipelines.train.config import SelectOn, TrainJob
from mettle_cache.pipelines.train.passes import plan_passes, train_passes
from mettle_cache.pipelines.train.recipe import Recipe, default_recipe, load_recipe, recipe_from_json
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder, find_runs
from mettle_cache.pipelines.train.run_tokens import TokenOptions, open_tokens
from mettle_cache.pipelines.train.spec import RunSpec, Variant
from mettle_cache.pipelines.train.training import RUNS, default_run_folder
from mettle_cache.store import TokenStore
from mettle_cache.store.reading.token_source import ClipsFailedError, TokenSource


def start_training(job: TrainJob, progress: Progress) -> TrainReport:
    """Open the store, choose the recipe and the run's folder, and train; or resume the run that is there.

    Raises
    ------
    UsageError, StoreMissingError
        As :meth:`TrainJob.check`.
    """
    progress = Logged.over(progress)  # what is said before the run's folder is open goes to its log too
    if job.out in job.runs():
        return resume_runs(job, progress).only_head
    return train_one(job, *open_for(job, progress), progress)


def train_one(job: TrainJob, tokens: TokenSource, name: str, progress: Progress) -> TrainReport:
    """Train one head of the recipe ``name`` on these tokens."""
    recipe, seed = load_recipe(name, list(job.overrides)), job.seed or 0
    out = job.out or default_run_folder(tokens, recipe, seed)
    progress.note(f"{describe_source(tokens)}, recipe {recipe.name}, seed {seed}, run {out}")
    spec = RunSpec(recipe=recipe, seed=seed, folder=out)
    return _train_group(job, tokens, [spec], cast(SelectOn, job.select_on or "val"), progress).only_head


def resume_runs(
    job: TrainJob,
    progress: Progress,
    *,
    root: Path | None = None,
    weights: Mapping[str, str | None] = MappingProxyType({}),
) -> GroupReport:
    """Go on with the runs in ``job.out`` by their own records; all else that the request names must agree with them.

    They may get longer, and their store may have moved; so may the data set of a run without a store, to ``root``, and
    its backbones' weights, to the ``NAME=FILE`` of each modality.

    Raises
    ------
    RunError
        There is no run, one is damaged, or differs from the request.
    StoreMissingError
        The store is not where it was, and no other place is named.
    """
    assert job.out is not None
    progress = Logged.over(progress)
    folders = find_runs(job.out)
    configs = [RunFolder(folder).read_config() for folder in folders]
    specs = [
        RunSpec(
            recipe=_recipe_to_resume(job, config, folder),
            seed=config.seed if job.seed is None else job.seed,
            folder=job.out,
            name="" if folder == job.out else str(folder.relative_to(job.out)),
            variant=config.variant,
        )
        for folder, config in zip(folders, configs, strict=True)
    ]
    options = TokenOptions(device=job.device, root=root, weights=weights, resuming=True)
    named = ", ".join(str(spec.out) for spec in specs)
    select_on = cast(SelectOn, job.select_on or configs[0].select_on)
    with closing(
        open_tokens(folders[0], configs[0], options, progress, instead=job.store, option="--from-cache")
    ) as store:
        progress.note(f"{describe_source(store)}, resuming {named}")
        return _train_group(job, store, specs, select_on, progress)


def _recipe_to_resume(job: TrainJob, config: RunConfig, folder: Path) -> Recipe:
    if job.recipe is not None:
        return load_recipe(job.recipe, list(job.overrides))
    return recipe_from_json(config.recipe, where=f"the recipe of {folder}", overrides=job.overrides)


def start_seeds(job: TrainJob, seeds: Sequence[int], progress: Progress) -> GroupReport:
    """As :func:`start_training`, for several seeds in one pass; each run is ``OUT/seed-N``, ``job.seed`` is ignored."""
    progress = Logged.over(progress)
    return train_seeds(job, seeds, *open_for(job, progress), progress)


def train_seeds(job: TrainJob, seeds: Sequence[int], store: TokenSource, name: str, progress: Progress) -> GroupReport:
    """As :func:`train_one`, for every seed."""
    recipe = load_recipe(name, list(job.overrides))
    folder = job.out or RUNS / f"{store_name(store)}-{recipe.name}"
    specs = [RunSpec(recipe=recipe, seed=seed, folder=folder, name=f"seed-{seed}") for seed in seeds]
    return start_group(job, store, specs, folder, progress)


def start_sweep(job: TrainJob, variants: Sequence[Variant], seeds: Sequence[int], progress: Progress) -> GroupReport:
    """As :func:`start_seeds`, for every variant; each run is ``OUT/VARIANT/seed-N``.

    ``job.overrides`` is ignored: the variants hold all overrides.
    """
    progress = Logged.over(progress)
    store, name = open_for(job, progress)
    folder = job.out or RUNS / f"{store_name(store)}-{Path(name).stem}-sweep"
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
    return start_group(job, store, specs, folder, progress)


def start_group(
    job: TrainJob, store: TokenSource, specs: Sequence[RunSpec], folder: Path, progress: Progress
) -> GroupReport:
    """Train heads under ``folder``, in as many passes as memory asks for."""
    if RunFolder(folder).config.exists():
        raise RunError(f"{folder}: this is the folder of one run", hint="choose another folder for several with --out")
    recipe = specs[0].recipe.name if specs else ""
    progress.note(f"{describe_source(store)}, recipe {recipe}, {count(len(specs), 'head')}, runs under {folder}")
    return _train_group(job, store, specs, cast(SelectOn, job.select_on or "val"), progress)


def _train_group(
    job: TrainJob, store: TokenSource, specs: Sequence[RunSpec], select_on: SelectOn, progress: Progress
) -> GroupReport:
    try:
        plan = plan_passes(specs, store, device=job.device, memory=job.memory, progress=progress)
        for note in plan.notes():
            progress.note(note)
        return train_passes(
            store,
            plan,
            select_on=select_on,
            resume=job.resume,
            device=job.device,
            progress=progress,
            log=job.log,
            residency=Residency(job.resident, job.memory),
            graph=job.graph,
        )
    except ClipsFailedError as error:
        _check_may_begin_again(specs, error)
        progress.note(f"{error.message}: beginning again without")
        return _train_group(replace(job, resume=True), error.rest, specs, select_on, progress)


def _check_may_begin_again(specs: Sequence[RunSpec], error: ClipsFailedError) -> None:
    """Refuse to leave clips out of runs that have epochs with them. Raises RunError."""
    begun = [spec.out for spec in specs if RunFolder(spec.out).has(RunFolder(spec.out).last)]
    if begun:
        failed = ", ".join(f"{clip}: {reason}" for clip, reason in error.failed.items())
        raise RunError(
            f"{begun[0]}: clips that it was trained on cannot be computed any more: {failed}",
            hint="restore their media, and go on with the same command",
        ) from error


def describe_source(tokens: TokenSource) -> str:
    """Where tokens come from, in a few words."""
    if tokens.computed is None:
        return f"store {tokens.path}"
    root, filled = tokens.computed["root"], tokens.computed.get("fill")
    where = f"store {filled}, which is filled on the way" if filled else "no store"
    return f"{where}: backbones compute the {tokens.codec} tokens of {root}"


def open_for(job: TrainJob, progress: Progress) -> tuple[TokenStore, str]:
    """The store and the recipe's name."""
    job.check()
    if job.recipe is not None:
        load_recipe(job.recipe)  # what is wrong with it shows before the store is read
    path, notes = job.find_store()
    for note in notes:
        progress.note(note)
    store = TokenStore.open(path)
    return store, job.recipe or default_recipe(store)


def store_name(store: TokenSource) -> str:
    """What names of folders begin with."""
    return Path(store.path).stem
