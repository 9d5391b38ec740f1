"""What a folder or file of ours is, on the hub: its files in the order in which they are sent, and its card."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mettle_cache.errors import RunError, StoreCorruptError, StoreUnfinishedError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.share.cards import head_card, runs_card, store_card
from mettle_cache.pipelines.share.portable import Content, files_with_places, portable_run
from mettle_cache.pipelines.sweeps.record import RECORD
from mettle_cache.pipelines.train.run_folder import RunFolder, find_runs
from mettle_cache.sealing import file_seal_fits
from mettle_cache.store import TokenStore, verify_store
from mettle_cache.store.format.files import COMPANIONS
from mettle_cache.store.format.metadata import READY, ROOT
from mettle_cache.store.writing.locks import FINISHING, LOCKS

HEAD = "head.safetensors"


@dataclass(frozen=True)
class Contents:
    """``kind`` is store, run, runs or head; ``files`` are by their path in the repository, the last one completes it.

    ``notes`` are what the user has to know before others can read it.
    """

    kind: str
    repo_type: str
    files: dict[str, Content]
    card: str
    notes: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(_size(content) for content in self.files.values())


def contents_of(path: Path, place: str) -> Contents:
    """What is pushed of a store, a run, a folder of runs or an exported head; ``place`` is for its card.

    Raises
    ------
    StoreUnfinishedError, StoreCorruptError
        The store is not finished, or a quick look at it finds damage.
    RunError
        There is no run, or one is damaged or has finished no epoch.
    UsageError
        A file that is no exported head.
    """
    if path.is_file():
        return _head(path)
    if os.path.lexists(path / ROOT):
        return _store(path, place)
    return _runs(path, place)


def _store(path: Path, place: str) -> Contents:
    store = TokenStore.open(path)
    report = verify_store(path)
    if not report.finished:
        raise StoreUnfinishedError(f"{path} is not finished", hint="run the same mettle extract command again")
    if report.problems:
        raise StoreCorruptError(
            f"{path} is damaged ({len(report.problems)} problems), and not pushed",
            hint=f"see: {command_line('mettle verify', path)}",
        )
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in (LOCKS, FINISHING, COMPANIONS, READY)
    )
    files: dict[str, Content] = {name: path / name for name in (*names, READY)}
    notes = ["the store holds the clips' ids and their annotations (samples.parquet), which others will read"]
    if (path / COMPANIONS).is_dir():
        notes.append("what is kept beside the tokens (companions) stays here: a training makes it again")
    return Contents("store", "dataset", files, store_card(store, report, place), notes)


def _runs(path: Path, place: str) -> Contents:
    runs = find_runs(path)
    files: dict[str, Content] = {}
    if os.path.lexists(path / RECORD):
        files[RECORD] = path / RECORD
    for run in runs:
        prefix = "" if run == path else f"{run.relative_to(path).as_posix()}/"
        files |= {f"{prefix}{name}": content for name, content in portable_run(run).items()}
    notes = [
        f"{name} still names a folder of this machine, and is part of what decides the run"
        for name in files_with_places(files.items(), _places(path, runs))
    ]
    kind = "run" if runs == [path] else "runs"
    return Contents(kind, "model", files, runs_card(path, runs, place), notes)


def _head(path: Path) -> Contents:
    from mettle_cache.pipelines.evaluate.export import load_exported

    if path.suffix != ".safetensors" or not file_seal_fits(path):
        raise UsageError(f"{path}: no exported head, or a damaged one", hint="make one with: mettle export RUN")
    try:
        load_exported(path)
    except RunError as error:
        raise UsageError(
            f"{path}: no exported head ({error.message})", hint="make one with: mettle export RUN"
        ) from error
    notes = [
        f"{path.name} names a folder of this machine" for _ in files_with_places([(HEAD, path)], _places(path, []))
    ]
    return Contents("head", "model", {HEAD: path}, head_card(path), notes)


def _places(path: Path, runs: Iterable[Path]) -> set[Path]:
    """Folders of this machine that a file of a run may name."""
    stores = {Path(RunFolder(run).read_config().store.path).parent for run in runs}
    return {Path.home(), Path.cwd(), path.resolve().parent, *stores}


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
