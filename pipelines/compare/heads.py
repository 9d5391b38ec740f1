"""The heads of one codec: trained from one pass for all seeds, their predictions kept in a file each.

A head's file is written when it is trained. What is there is not trained again, and what a stopped process left
half-trained goes on.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mettle_cache.errors import RunError
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.paths import command_line
from mettle_cache.pipelines.compare.tokens import open_tokens
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.loop import predict_split
from mettle_cache.pipelines.train.recipe import Recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train_runs
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.durable import make_folder, write_atomically
from mettle_cache.tasks.protocol import Predictions


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What all codecs of a comparison have in common: the recipe, the samples to score, and where files go."""

    store: TokenStore
    recipe: Recipe
    split: Split
    device: torch.device
    folder: Path

    def predictions(self, name: str, seed: int) -> Path:
        """The file of one head's predictions."""
        return self.folder / f"{name}-seed-{seed}.npz"


def heads_of(subject: Subject, name: str, seeds: Sequence[int], progress: Progress) -> list[Predictions]:
    """The predictions of a head for each seed, all of them trained on the tokens called ``name``.

    The last epoch counts: selecting one would add the noise of the val split to every difference.

    Raises
    ------
    RunError
        A head's loss is not finite, or what lies in the folder is damaged.
    """
    missing = [seed for seed in seeds if not subject.predictions(name, seed).exists()]
    work = subject.folder / f"{name}-work"
    if missing:
        progress.note(f"{name}: training {len(missing)} heads")
        make_folder(work)
        with open_tokens(subject.store, name, work / "tokens.zarr", progress) as tokens:
            _train(subject, tokens, missing, work, progress)
            for seed, predicted in zip(missing, _predict(subject, tokens, missing, work, progress), strict=True):
                _write(subject.predictions(name, seed), predicted)
    if work.exists():  # a process that was killed may have left it behind
        shutil.rmtree(work)
    return [_read(subject.predictions(name, seed)) for seed in seeds]


def _train(subject: Subject, tokens: TokenStore, seeds: Sequence[int], work: Path, progress: Progress) -> None:
    specs = [RunSpec(recipe=subject.recipe, seed=seed, folder=work, name=f"seed-{seed}") for seed in seeds]
    group = train_runs(
        tokens, specs, select_on="last", resume=True, device=str(subject.device), progress=_Bars(progress)
    )
    if group.errors:
        raise group.errors[0]


def _predict(
    subject: Subject, tokens: TokenStore, seeds: Sequence[int], work: Path, progress: Progress
) -> list[Predictions]:
    recipe = subject.recipe
    runs = [Run(bind_task(recipe, tokens), recipe.train, seed=seed, device=subject.device) for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        run.load_best(RunFolder(work / f"seed-{seed}"))
    tasks = [run.task for run in runs]
    loader = SampleLoader.with_grids(tokens, tasks, progress, device=subject.device)
    if any(pools_tokens(run.model) for run in runs):
        loader.compile_kernels(subject.split.rows, progress.note)
    progress.start(len(subject.split), "clips", f"evaluate {subject.split.name}")
    outcomes = predict_split(runs, loader, subject.split, recipe.train.batch_size, progress)
    progress.finish()
    predictions = []
    for outcome in outcomes:
        if isinstance(outcome, RunError):
            raise outcome
        predictions.append(outcome)
    return predictions


def _write(path: Path, predictions: Predictions) -> None:
    arrays: dict[str, Any] = dict(predictions)

    def save(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(path, save)


def _read(path: Path) -> Predictions:
    """A head's predictions; the zip file's checksums are compared. Raises RunError for damage."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: a head's predictions cannot be read ({error})",
            hint=f"{command_line('rm', path)}, and run the same command again: the head is trained again",
        ) from error


@dataclass(frozen=True)
class _Bars:
    """Progress without the lines of every epoch of every head."""

    shown: Progress

    def start(self, total: int, unit: str, what: str) -> None:
        self.shown.start(total, unit, what)

    def advance(self, n: int = 1, *, nbytes: int = 0) -> None:
        self.shown.advance(n, nbytes=nbytes)

    def note(self, text: str) -> None:
        return

    def finish(self) -> None:
        self.shown.finish()
