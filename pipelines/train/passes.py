"""Heads that are too many for memory, or that take other batches, in several passes over a store.

Each head holds its weights and Adam's two moments all the time. Gradients, and what a step keeps for the backward pass,
are there for one head at a time: heads of a pass take each batch in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.pipelines.memory import available_memory
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.run_reports import GroupReport, join_groups
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.config import SelectOn
from mettle_cache.pipelines.train.head_size import HeadSize, probe_step
from mettle_cache.pipelines.train.kept_companions import kept_companions
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_folder import RunFolder, claim_runs
from mettle_cache.pipelines.train.sample_loader import SampleLoader, read_split
from mettle_cache.pipelines.train.spec import RunSpec, check_folders, shared_settings
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import run_config, train_runs
from mettle_cache.store.reading.token_source import TokenSource

SHARE = 0.7
"""Of the memory that is free, what heads may take where nobody says how much."""


@dataclass(frozen=True)
class PassPlan:
    """The passes, each with the bytes that it is estimated to need, of ``limit`` that it may take."""

    passes: tuple[tuple[RunSpec, ...], ...]
    needed: tuple[int, ...]
    limit: int

    def notes(self) -> list[str]:
        """What a user has to know; nothing of one pass that fits."""
        notes, counts = [], [len(one) for one in self.passes]
        if len(counts) > 1:
            most = f"of {min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"of {max(counts)}"
            settings = {shared_settings(one[0].recipe) for one in self.passes}
            others = "; other batch sizes and orders take passes of their own" if len(settings) > 1 else ""
            notes.append(
                f"{sum(counts)} heads in {len(counts)} passes over the store, {most} each: a pass needs about "
                f"{format_bytes(max(self.needed))}, and may take {format_bytes(self.limit)} of memory{others}"
            )
        large = [size for size in self.needed if size > self.limit]
        if large:
            notes.append(
                f"{len(large)} heads need more memory than that alone, about {format_bytes(max(large))}: a smaller "
                "train.batch_size needs less"
            )
        return notes


def plan_passes(
    specs: Sequence[RunSpec],
    store: TokenSource,
    *,
    device: str | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> PassPlan:
    """Put heads into as few passes as memory and their batches allow, in their order.

    One step of each recipe runs on two samples, to see what it keeps; memory for a batch is estimated from it.

    Parameters
    ----------
    memory
        Bytes that a pass may take; None: most of what is free, on the device that trains.

    Raises
    ------
    UsageError
        A recipe does not fit the store.
    """
    prepare_process()
    target = choose_device(device)
    limit = memory if memory is not None else int(SHARE * available_memory(target))
    groups: dict[tuple[object, ...], list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(shared_settings(spec.recipe), []).append(spec)
    if len(specs) < 2:
        return PassPlan((tuple(specs),), (0,), limit)
    sizes = _Sizes(store, target, progress or Silent())
    passes: list[tuple[RunSpec, ...]] = []
    needed: list[int] = []
    for members in groups.values():
        for part in split_heads([sizes.of(spec) for spec in members], limit):
            passes.append(tuple(members[place] for place in part))
            needed.append(_together([sizes.of(members[place]) for place in part]))
    return PassPlan(tuple(passes), tuple(needed), limit)


def split_heads(sizes: Sequence[HeadSize], limit: int) -> list[list[int]]:
    """Places of consecutive heads that fit together; one that fits nowhere is alone."""
    parts: list[list[int]] = []
    for place in range(len(sizes)):
        if parts and _together([sizes[other] for other in [*parts[-1], place]]) <= limit:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _together(sizes: Sequence[HeadSize]) -> int:
    return sum(size.held for size in sizes) + max(size.step for size in sizes)


class _Sizes:
    """The sizes of heads by their recipe, each measured once."""

    def __init__(self, store: TokenSource, device: torch.device, progress: Progress) -> None:
        self._store = store
        self._device = device
        self._progress = progress
        self._rows = read_split(store, "train").rows
        self._known: list[tuple[Recipe, HeadSize]] = []

    def of(self, spec: RunSpec) -> HeadSize:
        for known, size in self._known:
            if known == spec.recipe:
                return size
        size = self._measure(spec)
        self._known.append((spec.recipe, size))
        return size

    def _measure(self, spec: RunSpec) -> HeadSize:
        recipe = spec.recipe
        # those that a run to resume keeps, where the store has none any more
        task = bind_task(recipe, self._store, kept_companions(RunFolder(spec.out)))
        run = Run(task, recipe.train, seed=0, device=self._device)
        loader = SampleLoader.for_tasks(self._store, [run.task], device=self._device, threads=1)
        if self._rows and pools_tokens(run.model):
            loader.compile_kernels(self._rows[:1], self._progress.note)
        return probe_step(run, loader, self._rows).at(min(recipe.train.batch_size, len(self._rows)))


def train_passes(
    store: TokenSource,
    plan: PassPlan,
    *,
    select_on: SelectOn = "val",
    resume: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
    log: Sequence[str] | None = None,
    residency: Residency | None = None,
    graph: bool = True,
) -> GroupReport:
    """:func:`~mettle_cache.pipelines.train.training.train_runs` for each pass in turn, as one report.

    All folders are claimed before the first pass: whichever is interrupted, a resume finds the runs of all. Tokens that
    stay do so from one pass to the next.

    Raises
    ------
    UsageError, RunError
        As ``train_runs``.
    """
    options: dict[str, Any] = {"select_on": select_on, "device": device, "progress": progress, "log": log}
    options |= {"residency": residency or Residency(), "graph": graph}
    if len(plan.passes) == 1:
        return train_runs(store, plan.passes[0], resume=resume, needed=plan.needed[0], **options)
    specs = [spec for one in plan.passes for spec in one]
    check_folders(specs)
    with claim_runs([(spec.out, run_config(spec, select_on, store)) for spec in specs], resume=resume):
        pass
    pairs = zip(plan.passes, plan.needed, strict=True)
    return join_groups([train_runs(store, one, resume=True, needed=needed, **options) for one, needed in pairs])
