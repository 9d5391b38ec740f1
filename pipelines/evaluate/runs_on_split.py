"""Trained runs, opened to be scored: weights of the best epoch, their store and samples, and where results go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mettle_cache.errors import RunError, StoreError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.best_run import best_run
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder, hold_run
from mettle_cache.pipelines.train.run_tokens import TokenOptions, open_tokens
from mettle_cache.pipelines.train.sample_loader import Split, no_samples, read_split
from mettle_cache.store.format.digests import digest_of
from mettle_cache.store.writing.durable import make_folder

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


@dataclass(frozen=True)
class RunOnSplit:
    """A run with the weights of its best epoch, the place of its results, and the samples to score it on."""

    folder: RunFolder
    place: RunFolder
    config: RunConfig
    recipe: Recipe
    store: TokenSource
    split: Split
    run: Run
    epoch: int


class RunStores:
    """Opens what runs were trained on, each store once; ``instead`` takes the place of all of them."""

    def __init__(self, instead: Path | TokenSource | None, options: TokenOptions, progress: Progress) -> None:
        self._instead = instead
        self._options = options
        self._progress = progress
        self._opened: dict[str, TokenSource] = {}

    def open(self, config: RunConfig, run: Path) -> TokenSource:
        """As :func:`~mettle_cache.pipelines.train.run_tokens.open_tokens`."""
        given = self._instead
        if given is not None and not isinstance(given, Path):
            config.store.check(run, given)
            return given
        name = str(given) if given else digest_of([config.store.path, config.store.computed])
        if name not in self._opened:
            self._opened[name] = open_tokens(run, config, self._options, self._progress, instead=given)
        config.store.check(run, self._opened[name])
        return self._opened[name]


def distinct_runs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each run once, by the first of its names, and a note for those that were named more than once."""
    names: dict[object, list[Path]] = {}
    for path in paths:
        status = path.stat() if path.exists() else None
        names.setdefault((status.st_dev, status.st_ino) if status else path, []).append(path)
    notes = [
        f"{same[0]} is named {len(same)} times ({', '.join(map(str, same))}) and counts once"
        for same in names.values()
        if len(same) > 1
    ]
    return [same[0] for same in names.values()], notes


def result_places(paths: Sequence[Path], out: Path | None) -> dict[Path, RunFolder]:
    """Where the results of each run go."""
    if out is None:
        return {path: RunFolder(path) for path in paths}
    if RunFolder(out).config.exists():
        raise UsageError(f"--out {out}: this is a run's folder", hint="choose another one, or leave --out away")
    if len(paths) == 1:
        return {paths[0]: RunFolder(out)}
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return {path: RunFolder(out / path.absolute().relative_to(common)) for path in paths}


@contextmanager
def hold_place(place: RunFolder) -> Iterator[None]:
    """Keep other processes from writing where results go."""
    make_folder(place.path)
    with ExitStack() as held:
        try:
            held.enter_context(hold_run(place.path))
        except StoreError as error:
            raise RunError(
                f"{place.path}: results cannot be written there ({error.message})",
                hint=f"{command_line('mettle evaluate', place.path, '--out')} FOLDER writes them elsewhere",
            ) from error
        yield


def load_on_split(
    folder: RunFolder, place: RunFolder, config: RunConfig, store: TokenSource, split: str, device: torch.device
) -> RunOnSplit:
    run, epoch = best_run(folder, config, store, device)
    samples = read_split(store, split)
    if not samples.rows:
        raise no_samples(store, samples)
    # a damaged result is this run's failure, and known before the split is read
    folder.read_result()
    place.read_result()
    return RunOnSplit(folder, place, config, config.load_recipe(), store, samples, run, epoch)


def without_failed(trained: RunOnSplit, rest: TokenSource) -> RunOnSplit:
    """The run on the samples that are left of its split. Raises UsageError where none is."""
    samples = read_split(rest, trained.split.name)
    if not samples.rows:
        raise no_samples(rest, samples)
    return replace(trained, store=rest, split=samples)


def group_by_pass(trained: Sequence[RunOnSplit]) -> list[list[RunOnSplit]]:
    """Runs that can take the same batches: those of one store, task and batch size."""
    groups: dict[tuple[object, ...], list[RunOnSplit]] = {}
    for one in trained:
        key = (id(one.store), one.recipe.task, one.recipe.train.batch_size)
        groups.setdefault(key, []).append(one)
    return list(groups.values())
