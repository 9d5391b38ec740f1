"""Stage two: training heads from a store. The task gives model, targets, loss and score; none is known here by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import UsageError
from mettle_cache.paths import command_line, local_path
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.config import SelectOn
from mettle_cache.pipelines.train.epoch_pictures import EpochPictures
from mettle_cache.pipelines.train.foretold import training_bytes
from mettle_cache.pipelines.train.kept_arrays import keep_static
from mettle_cache.pipelines.train.kept_companions import keep_companions, kept_companions
from mettle_cache.pipelines.train.loop import Throughput, train_epochs
from mettle_cache.pipelines.train.outcome import describe_training, open_loggers, report_group
from mettle_cache.pipelines.train.recipe import Recipe, default_recipe, load_recipe
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import NO_DIGESTS, RunConfig, StoreReference
from mettle_cache.pipelines.train.run_folder import RunFolder, check_claim, claim_runs
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split, read_split
from mettle_cache.pipelines.train.shared_pass import SharedPass
from mettle_cache.pipelines.train.spec import RunSpec, check_shared
from mettle_cache.pipelines.train.step_graph import StaticBatch
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.token_origin import keep_origin
from mettle_cache.store.reading.token_source import TokenSource
from mettle_cache.store.reading.token_store import TokenStore

RUNS = Path("runs")


def train(
    store: str | Path | TokenSource,
    *,
    recipe: Recipe | str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
    log: Sequence[str] | None = None,
    residency: Residency | None = None,
    graph: bool = True,
) -> TrainReport:
    """Train one head on the tokens of a store, and keep the best epoch.

    For example ``train("cache/ave-swinv2_l-htsat.zarr", recipe="ave-swin-htsat").best_score``. On a CPU the same store,
    recipe and seed give the same weights bit for bit, resumed or not, whatever ``threads`` read (PyTorch's own: see
    :func:`mettle_cache.devices.fix_summation_order`).

    Parameters
    ----------
    recipe
        A recipe, a built-in one's name, or a TOML file; None: the one that fits the store.
    out
        The run's folder, which ``evaluate`` takes; None: ``runs/STORE-RECIPE-SEED``.
    select_on
        The split whose score picks the epoch to keep. ``test`` is what the peers do, and marks the result; ``last``
        keeps the last epoch. Where the store has no val samples, ``val`` keeps the last epoch and says so.
    resume
        Go on in ``out`` after the last finished epoch; starts from the beginning where there is none.
    log
        The loggers' names; None: those that the run had before, at first ``tensorboard``.
    residency, graph
        Where tokens stay once they are read, None for the nearest memory; whether steps on a GPU are captured.

    Raises
    ------
    UsageError, ConfigError
        The recipe does not fit the store or is not a valid one, a split that is needed is empty, or tokens do not fit.
    RunError, StoreError
        ``out`` holds another run, the loss is not finite; or there is no finished store, or it is damaged.
    """
    options: dict[str, Any] = {"device": device, "threads": threads, "progress": progress, "log": log}
    options |= {"select_on": select_on, "resume": resume, "residency": residency, "graph": graph}
    opened = _open(store)
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or default_recipe(opened))
    folder = local_path(out) if out else default_run_folder(opened, chosen, seed)
    return train_runs(opened, [RunSpec(recipe=chosen, seed=seed, folder=folder)], **options).only_head


def train_runs(
    store: str | Path | TokenSource,
    specs: Sequence[RunSpec],
    *,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
    log: Sequence[str] | None = None,
    residency: Residency | None = None,
    needed: int = 0,
    graph: bool = True,
) -> GroupReport:
    """Train several heads from one pass over the store for each epoch, and keep the best epoch of each.

    Each gets the numbers of a :func:`train` of its own, and a run folder that ``evaluate`` and a resume take.
    A run that fails (its loss is no longer finite) is reported and left at its last finished epoch; the others go on.
    Options are those of :func:`train`; with ``resume`` every run goes on after its own last finished epoch, and those
    that are new start from the beginning. ``needed`` is what memory training itself takes, where that was estimated.

    Raises
    ------
    UsageError
        As :func:`train`, or runs that cannot share a pass (see ``spec.check_shared``).
    RunError
        One of the folders holds another run; then none is touched.
    """
    logged = Logged.over(progress)
    prepare_process()
    check_shared(specs)
    opened, target = _open(store), choose_device(device)
    train_split, selection, notes = _choose_splits(opened, select_on)
    # built before the folders are claimed: a recipe that does not fit the layers must not leave a run behind
    runs = [_build_run(spec, opened, target, resume, logged) for spec in specs]
    configs = _claimable_configs(specs, select_on, opened, resume)
    shared = SharedPass(
        loader=SampleLoader.with_grids(opened, [run.task for run in runs], logged, device=target, threads=threads),
        batch_size=specs[0].recipe.train.batch_size,
        order_seed=specs[0].recipe.train.order_seed,
        train=train_split,
        selection=selection,
        progress=logged,
    )
    shared = _make_room(shared, runs, residency or Residency(), needed, graph)
    _announce(shared, specs if resume else [], runs, notes)
    with _hold_folders(shared, specs, runs, configs, resume, log):
        throughput = _train(shared, runs, specs[0].folder)
        return report_group(shared, specs, runs, throughput, notes)


def _announce(shared: SharedPass, resumed: Sequence[RunSpec], runs: Sequence[Run], notes: Sequence[str]) -> None:
    """Say what is to be known before the first step."""
    for note in [*_describe_group(runs), *notes, *shared.residence_notes(runs)]:
        shared.progress.note(note)
    for spec in resumed:
        if RunFolder(spec.out).is_undigested:
            shared.progress.note(f"{spec.out}: {NO_DIGESTS}; from now on they have some")


def default_run_folder(store: TokenSource, recipe: Recipe, seed: int) -> Path:
    """The folder of a run where none is chosen."""
    return RUNS / f"{Path(store.path).stem}-{recipe.name}-{seed}"


def _open(store: str | Path | TokenSource) -> TokenSource:
    return TokenStore.open(local_path(store)) if isinstance(store, str | Path) else store


def _build_run(spec: RunSpec, store: TokenSource, device: torch.device, resume: bool, progress: Logged) -> Run:
    task = bind_task(spec.recipe, store, kept_companions(RunFolder(spec.out)) if resume else None)
    note = partial(progress.note_of, spec.name)
    run = Run(task, spec.recipe.train, seed=spec.seed, device=device, label=spec.name, note=note)
    if not (resume and RunFolder(spec.out).has(RunFolder(spec.out).last)):
        task.initialise(run.model)
    return run


def _make_room(shared: SharedPass, runs: Sequence[Run], residency: Residency, needed: int, graph: bool) -> SharedPass:
    """The same with room for the tokens that stay, beside the ``needed`` bytes of training: 0 for those foretold."""
    loader, rows = shared.loader, shared.train.rows
    static = StaticBatch() if graph and loader.device.type == "cuda" else None
    batch = loader.resident_bytes(len(loader.clips_of(rows[:1]))) * min(shared.batch_size, len(rows))
    training = needed or training_bytes([run.parameters for run in runs], batch)
    training += batch if static else 0
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    residence = residency.settle(loader, [row for split in splits for row in split.rows], training=training)
    return replace(shared, residence=residence, training_bytes=training, static=static)


def _describe_group(runs: Sequence[Run]) -> list[str]:
    """The size of all heads together: a sweep may not fit a machine that any one of its heads fits."""
    if len(runs) == 1:
        return []
    parameters = sum(run.parameters for run in runs)
    # single precision: weights and Adam's two moments
    held = format_bytes(parameters * 3 * 4)
    return [f"{len(runs)} heads together: {parameters / 1e6:.1f} M parameters, {held} with their optimisers"]


@contextmanager
def _hold_folders(
    shared: SharedPass,
    specs: Sequence[RunSpec],
    runs: Sequence[Run],
    configs: Sequence[RunConfig],
    resume: bool,
    log: Sequence[str] | None,
) -> Iterator[None]:
    """Hold the folder of every run, and resume the run from what is in it."""
    claims = [(spec.out, config) for spec, config in zip(specs, configs, strict=True)]
    with ExitStack() as held:
        folders = held.enter_context(claim_runs(claims, resume=resume))
        logs = {run.label: folder.log for run, folder in zip(runs, folders, strict=True)}
        held.enter_context(shared.progress.kept_in(logs, describe_training(shared, folders[0].path)))
        for spec, run, folder in zip(specs, runs, folders, strict=True):
            keep_static(folder, shared.loader.store, run.task.layers)
            keep_companions(folder, run.model, shared.loader.store.companions)
            keep_origin(folder, shared.loader.store)
            loggers = open_loggers(folder, run.label, log, shared.progress)
            store, note = shared.loader.store, shared.progress.note
            pictures = EpochPictures(spec.recipe.task, run.task, store, note)
            options: dict[str, Any] = {"loggers": loggers, "pictures": pictures}
            held.enter_context(run.record(folder, store_digest=store.key_digest, steps=shared.steps, **options))
        yield


def _claimable_configs(
    specs: Sequence[RunSpec], select_on: SelectOn, store: TokenSource, resume: bool
) -> list[RunConfig]:
    """The runs' records. A folder that cannot be theirs is refused now, not when layers have been pooled for hours."""
    configs = [run_config(spec, select_on, store) for spec in specs]
    for spec, config in zip(specs, configs, strict=True):
        check_claim(spec.out, config, resume=resume)
    return configs


def run_config(spec: RunSpec, select_on: SelectOn, store: TokenSource) -> RunConfig:
    """The record of a run that begins."""
    return RunConfig(
        recipe=spec.recipe.to_json(),
        seed=spec.seed,
        select_on=select_on,
        store=StoreReference.of(store),
        variant=spec.variant,
    )


def _choose_splits(store: TokenSource, select_on: SelectOn) -> tuple[Split, Split | None, list[str]]:
    """The samples to train on, those to select the epoch on, if any, and notes for the report."""
    train_split = read_split(store, "train")
    if not train_split.rows:
        see = f"see: {command_line('mettle info', str(store.path))}"
        raise UsageError(f"{store.path}: the train split has no samples with tokens", hint=see)
    selection = read_split(store, select_on) if select_on != "last" else None
    notes = []
    if selection is not None and not selection.rows:
        if select_on == "test":
            raise UsageError(f"{store.path}: the test split has no samples to select on", hint="use --select-on val")
        notes.append("the val split has no samples: the last epoch is kept instead of the best")
        selection = None
    if select_on == "test":
        notes.append("the epoch is selected on the test split, as the peers do: its test accuracy is optimistic")
    dropped = len(train_split.dropped) + (len(selection.dropped) if selection else 0)
    if dropped:
        notes.append(f"samples left out because their clips have no tokens: {dropped}; the accuracy is not comparable")
    return train_split, selection, notes


def _train(shared: SharedPass, runs: Sequence[Run], folder: Path) -> Throughput:
    """Train the epochs that are left; says from which epoch each run is resumed, and after Ctrl-C how to resume."""
    for run in runs:
        done = run.history.epochs
        if done and run.epochs_left:
            shared.progress.note_of(run.label, f"resuming after epoch {done} of {run.options.epochs}")
        elif done:
            again = f"finished already, after {done} epochs; --set train.epochs=N makes it longer"
            shared.progress.note_of(run.label, again)
    try:
        return train_epochs(shared, runs)
    except KeyboardInterrupt:
        done = min(run.history.epochs for run in runs)
        again = command_line("mettle train --resume --out", folder)
        shared.progress.note(f"interrupted; go on after epoch {done} with: {again}")
        raise
