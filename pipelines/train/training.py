"""Stage two: train heads from a store. Knows no task; a task is asked for its model, targets, loss and score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mettle_cache.devices import choose_device, peak_memory, prepare_process
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.group_report import GroupReport
from mettle_cache.pipelines.report.train_report import TrainReport
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.binding import bind_task, open_store
from mettle_cache.pipelines.train.headrun import HeadRun
from mettle_cache.pipelines.train.loop import Member, Pass, Tally, train_members
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run_folder import RunConfig, RunFolder, SelectOn, StoreReference, claim_runs
from mettle_cache.pipelines.train.run_log import RunLog
from mettle_cache.pipelines.train.sample_loader import Feed, Split, read_split
from mettle_cache.pipelines.train.spec import HeadPlan, check_shared
from mettle_cache.pipelines.train.trainee import Trainee, union_of_layers

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def train_run(
    store: Path | TokenStore,
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> TrainReport:
    """Train one head and keep the best epoch.

    On a CPU the same store, recipe and seed give the same weights bit for bit, resumed or not, whatever the number of
    reader threads (the number of PyTorch's own threads being the same, and PyTorch's first product of the process being
    ours or an extraction's: see reproducible.py).

    Parameters
    ----------
    select_on
        The split whose score picks the epoch to keep. ``test`` is what the peers do, and marks the result; ``last``
        keeps the last epoch. Where the store has no val samples, ``val`` keeps the last epoch and says so.
    resume
        Go on in ``out`` after the last finished epoch; starts from the beginning where there is none.

    Raises
    ------
    UsageError
        The recipe does not fit the store, or a split that is needed is empty.
    RunError
        ``out`` holds another run, or the loss is not finite.
    """
    report = train_heads(
        store,
        [HeadPlan(recipe=recipe, seed=seed, folder=out)],
        select_on=select_on,
        resume=resume,
        device=device,
        threads=threads,
        progress=progress,
    )
    if report.errors:
        raise report.errors[0]
    return report.heads[0]


def train_heads(
    store: Path | TokenStore,
    plans: Sequence[HeadPlan],
    *,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> GroupReport:
    """Train several heads from one pass over the store for each epoch, and keep the best epoch of each.

    Each gets the numbers of a :func:`train_run` of its own, and a run folder that ``evaluate_run`` and a resume take.
    A head that fails (its loss is no longer finite) is reported and left at its last finished epoch; the others go on.
    Options are those of :func:`train_run`; with ``resume`` every head goes on after its own last finished epoch, and
    those that are new start from the beginning.

    Raises
    ------
    UsageError
        As :func:`train_run`, or heads that cannot share a pass (see ``spec.check_shared``).
    RunError
        One of the folders holds another run; then none is touched.
    """
    progress = progress or Silent()
    prepare_process()
    check_shared(plans)
    opened, target = open_store(store), choose_device(device)
    train, selection, notes = _choose_splits(opened, select_on)
    # built before the folders are claimed: a recipe that does not fit the layers must not leave a run behind
    trainees = [_build_trainee(plan, opened, target, resume) for plan in plans]
    shared = Pass(
        feed=Feed(opened, union_of_layers(opened, trainees), device=target, threads=threads),
        batch_size=plans[0].recipe.train.batch_size,
        order_seed=plans[0].recipe.train.order_seed,
        train=train,
        selection=selection,
        progress=progress,
    )
    for note in [*_describe_group(trainees), *notes]:
        progress.note(note)
    configs = [_run_config(plan, select_on, opened) for plan in plans]
    with _claim_members(shared, plans, trainees, configs, resume) as members:
        tally = _train(shared, members, plans[0].folder)
        return _report_group(shared, plans, members, tally, notes)


def _build_trainee(plan: HeadPlan, store: TokenStore, device: torch.device, resume: bool) -> Trainee:
    trainee = Trainee(bind_task(plan.recipe, store), plan.recipe.train, seed=plan.seed, device=device)
    if not (resume and RunFolder(plan.out).last.exists()):
        trainee.task.initialise(trainee.model)
    return trainee


def _describe_group(trainees: Sequence[Trainee]) -> list[str]:
    """What several heads hold together: a sweep can outgrow a machine that holds any one of them."""
    if len(trainees) == 1:
        return []
    parameters = sum(trainee.parameters for trainee in trainees)
    # single precision: weights and Adam's two moments
    held = format_bytes(parameters * 3 * 4)
    return [f"{len(trainees)} heads together: {parameters / 1e6:.1f} M parameters, {held} with their optimisers"]


@contextmanager
def _claim_members(
    shared: Pass, plans: Sequence[HeadPlan], trainees: Sequence[Trainee], configs: Sequence[RunConfig], resume: bool
) -> Iterator[list[Member]]:
    """Hold the folder and the log of every head."""
    claims = [(plan.out, config) for plan, config in zip(plans, configs, strict=True)]
    with ExitStack() as held:
        folders = held.enter_context(claim_runs(claims, resume=resume))
        members = []
        for plan, trainee, folder in zip(plans, trainees, folders, strict=True):
            run = HeadRun(trainee, folder, store_digest=shared.feed.store.key_digest)
            log = held.enter_context(RunLog(folder, start_step=run.history.epochs * shared.steps))
            members.append(Member(run, log, plan.name))
        yield members


def _run_config(plan: HeadPlan, select_on: SelectOn, store: TokenStore) -> RunConfig:
    return RunConfig(recipe=plan.recipe.to_json(), seed=plan.seed, select_on=select_on, store=StoreReference.of(store))


def _choose_splits(store: TokenStore, select_on: SelectOn) -> tuple[Split, Split | None, list[str]]:
    train = read_split(store, "train")
    if not train.rows:
        raise UsageError(f"{store.path}: the train split has no samples with tokens", hint="see: mettle info STORE")
    selection = read_split(store, select_on) if select_on != "last" else None
    notes = []
    if selection is not None and not selection.rows:
        if select_on == "test":
            raise UsageError(f"{store.path}: the test split has no samples to select on", hint="use --select-on val")
        notes.append("the val split has no samples: the last epoch is kept instead of the best")
        selection = None
    if select_on == "test":
        notes.append("the epoch is selected on the test split, as the peers do: its test accuracy is optimistic")
    dropped = len(train.dropped) + (len(selection.dropped) if selection else 0)
    if dropped:
        notes.append(f"samples left out because their clips have no tokens: {dropped}; the accuracy is not comparable")
    return train, selection, notes


def _train(shared: Pass, members: Sequence[Member], folder: Path) -> Tally:
    for member in members:
        done = member.run.history.epochs
        if done:
            name = f"{member.label}: " if member.label else ""
            shared.progress.note(f"{name}resuming after epoch {done} of {member.run.trainee.options.epochs}")
    try:
        return train_members(shared, members)
    except KeyboardInterrupt:
        done = min(member.run.history.epochs for member in members)
        shared.progress.note(f"interrupted; go on after epoch {done} with --resume --out {folder}")
        raise


def _report_group(
    shared: Pass, plans: Sequence[HeadPlan], members: Sequence[Member], tally: Tally, notes: list[str]
) -> GroupReport:
    """Report every head, in its own folder too."""
    memory, memory_of = peak_memory(shared.feed.device)
    heads = []
    for plan, member in zip(plans, members, strict=True):
        head = _report_head(shared, plan, member, tally, notes)
        member.run.folder.update_result({"training": head.to_json()})
        heads.append(head)
    return GroupReport(
        folder=plans[0].folder,
        heads=heads,
        bytes_read=shared.feed.nbytes,
        clips_per_second=tally.clips_per_second,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        notes=notes,
        errors=[member.failure for member in members if member.failure is not None],
    )


def _report_head(shared: Pass, plan: HeadPlan, member: Member, tally: Tally, notes: list[str]) -> TrainReport:
    run = member.run
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    dropped = {split.name: len(split.dropped) for split in splits}
    memory, memory_of = peak_memory(shared.feed.device)
    return TrainReport(
        out=run.folder.path,
        recipe=plan.recipe.name,
        seed=plan.seed,
        epochs=run.history.epochs,
        selected_on=shared.selection.name if shared.selection else "last",
        metric=run.trainee.task.metric,
        best_epoch=run.history.best_epoch,
        best_score=run.history.best_score,
        parameters=run.trainee.parameters,
        samples={split.name: len(split) for split in splits},
        dropped=dropped,
        comparable=not any(dropped.values()),
        clips_per_second=tally.clips_per_second,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
        history=run.history.rows,
        notes=notes,
        variant=plan.variant,
        failure=member.failure.message if member.failure else None,
    )
