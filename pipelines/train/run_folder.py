"""A run's folder: its files, which change together with the record of their digests, and the lock of one writer.

``config.json`` (the record), ``last.safetensors`` (to resume), ``best.safetensors`` (to evaluate), ``metrics.csv``
(one row an epoch), ``result.json``, ``predictions-SPLIT.parquet``, ``samples-SPLIT.parquet`` (what each sample scored),
``static.safetensors`` (static arrays of the store's codec, where it has any), ``companion-NAME.safetensors`` (what the
method read beside the store, if anything), ``tokens.json`` (how the store's tokens came from media), and what
``export`` writes here. A file is used only if it has the digest that the record lists. Outside the record are what
nothing reads back: ``events/`` (TensorBoard), ``loggers.json``, ``artefacts-SPLIT/`` and ``log.txt``.

A commit writes every new file beside the old one, as ``NAME.next``; then the record, which is the moment at which all
of them count; then it renames them. A reader takes ``NAME.next`` where that is what the record lists.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from mettle_cache.errors import RunError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.log_file import LOG
from mettle_cache.pipelines.places import require_one_run, require_run
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.store.format.files import PARTIAL, file_digest, open_regular
from mettle_cache.store.writing.durable import (
    disk_errors,
    make_folder,
    remove_files,
    sync_folder,
    write_file,
)

CHECKPOINT_FORMAT = "mettle-checkpoint-1"
NEXT = ".next"
_MAX_JSON = 16 << 20


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def static(self) -> Path:
        return self.path / "static.safetensors"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions-{split}.parquet"

    def artefacts(self, split: str) -> Path:
        return self.path / f"artefacts-{split}"

    def read_config(self) -> RunConfig:
        """The run's record; raises RunError where there is none or it is damaged."""
        if not os.path.lexists(self.config):
            require_one_run(self.path)
        try:
            return RunConfig.from_bytes(_read_capped(self.config))
        except (ValueError, OSError) as error:
            raise RunError(
                f"{self.config}: not a run configuration that this version reads ({_first_line(error)})",
                hint=f"bring it back from a backup, or train again into another folder; {self.path} is not used",
            ) from error

    def has(self, path: Path) -> bool:
        """Whether the run has written this file: by its record, or without digests by what is there."""
        record = self._digests()
        return path.is_file() if record is None else path.name in record

    @property
    def is_undigested(self) -> bool:
        """Whether this is a run of the first version, whose files have no digests."""
        return self.config.exists() and self._digests() is None

    def check(self, path: Path) -> Path:
        """The file to read for one of the run's: itself, or the one beside it that a killed commit left.

        Raises
        ------
        RunError
            The run has not written it yet, or what is there is not what the run wrote.
        """
        record = self._digests()
        if not self.has(path):
            raise RunError(f"{path}: there is no checkpoint", hint="the run has not finished an epoch: train it first")
        if record is None:
            return path
        for candidate in (path, _next(path)):
            with suppress(OSError):
                if file_digest(candidate) == record[path.name]:
                    return candidate
        if self._digests() != record:
            # another process has finished an epoch since
            return self.check(path)
        raise RunError(f"{path}: {self._describe_damage(path)}", hint=self._repair_hint(path))

    def commit(self, files: Mapping[Path, Callable[[Path], None]], *, config: RunConfig | None = None) -> None:
        """Replace files of the run: all of them, or none if it is killed.

        Parameters
        ----------
        files
            What writes each of them, durably, to the path that it is given.
        config
            The record to put in the place of the present one; the files' digests are added to it.

        Raises
        ------
        NoRoomError, StoreError
            The disk is full, or refuses.
        """
        for path, write in files.items():
            write(_next(path))
        if config is None and self.config.exists():
            config = self.read_config()
        if config is not None and config.has_digests:
            digests = {path.name: file_digest(_next(path)) for path in files}
            write_file(self.config, replace(config, files={**config.files, **digests}).to_bytes())
        for path in files:
            _settle(path)

    def recover(self) -> None:
        """Finish a commit that was killed after its record was written, and undo one that was killed before."""
        staged = [entry for entry in self.path.iterdir() if entry.name.endswith(NEXT)]
        listed = (self._digests() or {}) if staged else {}
        for entry in staged:
            path = entry.with_suffix("")
            with disk_errors(entry, needed=0):
                wanted = file_digest(entry) == listed.get(path.name)
            if wanted:
                _settle(path)
            else:
                remove_files([entry])

    def update_result(self, section: Mapping[str, object]) -> None:
        """Put top-level keys into ``result.json``, keeping the others; see :meth:`commit`."""
        self.write_result({**self.read_result(), **section})

    def write_result(self, result: Mapping[str, object]) -> None:
        """Replace ``result.json``; see :meth:`commit`."""
        content = (json.dumps(result, indent=2) + "\n").encode()
        self.commit({self.result: lambda path: write_file(path, content)})

    def read_result(self) -> dict[str, Any]:
        """What ``result.json`` holds; empty before the first result. Raises RunError where it is damaged."""
        if not self.has(self.result):
            return {}
        try:
            result = json.loads(_read_capped(self.check(self.result)))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{self.result}: damaged ({_first_line(error)})", hint="delete the file and evaluate again"
            ) from error
        return dict(result)

    def _digests(self) -> dict[str, str] | None:
        """The record's digests by file name; None where there are none: a run of the first version, or no run."""
        if not os.path.lexists(self.config):
            return None
        config = self.read_config()
        return config.files if config.has_digests else None

    def _describe_damage(self, path: Path) -> str:
        if not os.path.lexists(path):
            return "missing, although the run's config.json lists it"
        if path.is_dir():
            return "a folder is in the file's place"
        try:
            file_digest(path)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        of_run = _run_of_checkpoint(path)
        if of_run is not None and of_run != self.read_config().identity:
            return "this file is another run's"
        return "not what the run's config.json lists: damaged, or the file of another epoch or another run"

    def _repair_hint(self, path: Path) -> str:
        if path == self.result:
            return f"{command_line('mettle train --resume --out', self.path)} writes it again, without its evaluations"
        again = "bring it back from a backup, or train again into another folder"
        return f"{again}; {command_line('mettle evaluate', self.path)} does not need it" if path == self.last else again


@contextmanager
def claim_run(path: Path, config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """Hold a run's folder for training: a new one, or with ``resume`` that of the same run, which may get longer.

    Raises
    ------
    RunError
        The folder holds another run, something else, a damaged one, or is in use by another process.
    UsageError
        The path is a file.
    """
    check_claim(path, config, resume=resume)
    make_folder(path)
    with hold_run(path) as folder:
        # once more: it may have become another process's since
        continued = check_claim(path, config, resume=resume)
        if continued is None:
            write_file(folder.config, config.to_bytes())
        elif not continued.has_digests:
            _add_digests(folder, continued)
        elif continued != folder.read_config():
            write_file(folder.config, continued.to_bytes())
        yield folder


@contextmanager
def claim_runs(claims: Sequence[tuple[Path, RunConfig]], *, resume: bool) -> Iterator[list[RunFolder]]:
    """:func:`claim_run` for several folders: all of them, or none is touched."""
    for path, config in claims:
        check_claim(path, config, resume=resume)
    with ExitStack() as held:
        yield [held.enter_context(claim_run(path, config, resume=resume)) for path, config in claims]


@contextmanager
def hold_run(path: Path) -> Iterator[RunFolder]:
    """Keep other processes from writing to a run's folder, and clear up what a killed one left.

    Raises
    ------
    RunError
        Another process trains or evaluates here, or the record is damaged.
    StoreError
        The folder cannot be written to.
    """
    place = path / ".lock"
    lock = FileLock(place)
    with disk_errors(place, needed=0):
        if not os.path.lexists(place):
            # of the mode that files have, which filelock would narrow: a colleague of the same group takes it too
            place.touch()
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(f"{path}: another process is training or evaluating in this folder") from error
        except NotImplementedError as error:
            raise RunError(
                f"{place}: this file system has no locks, so another process could write here too",
                hint="choose a folder on another disk with --out",
            ) from error
    try:
        folder = RunFolder(path)
        # safetensors has temporary files of its own, called .tmp and six letters
        remove_files(entry for entry in path.iterdir() if entry.name.endswith(PARTIAL) or entry.name.startswith(".tmp"))
        folder.recover()
        yield folder
    finally:
        lock.release()


def check_claim(path: Path, config: RunConfig, *, resume: bool) -> RunConfig | None:
    """Make sure that a run may be trained in a folder, without touching it.

    Returns the record with which the run there goes on, None for a new run; raises what :func:`claim_run` does.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise UsageError(f"{path}: the run's folder is a file", hint="choose another folder with --out")
    folder = RunFolder(path)
    if not os.path.lexists(folder.config):
        _check_empty(path)
        return None
    if not resume:
        raise RunError(f"{folder.path}: a run is here already", hint="add --resume to go on, or choose another --out")
    continued, problems = folder.read_config().continued_by(config)
    if problems:
        raise RunError(
            f"{folder.path}: the run here is another one: {'; '.join(problems)}",
            hint=f"{_resuming(folder)} goes on with it; or choose another --out",
        )
    return continued


def _resuming(folder: RunFolder) -> str:
    """The command that goes on with a run, or with the sweep that it is one of."""
    if folder.read_config().variant and folder.path.name.startswith("seed-"):
        return command_line("mettle sweep --resume --out", folder.path.parent.parent)
    return command_line("mettle train --resume --out", folder.path)


def _add_digests(folder: RunFolder, config: RunConfig) -> None:
    """Give a run of the first version a record of the files that it has."""
    names = [folder.best, folder.last, folder.metrics, folder.result, *folder.path.glob("predictions-*.parquet")]
    digests = {path.name: file_digest(path) for path in names if path.is_file()}
    write_file(folder.config, replace(config, files=digests, format=RunConfig.format).to_bytes())


def _check_empty(path: Path) -> None:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in names if not name.startswith(".") and not name.endswith(PARTIAL)]
    if {RunFolder(path).best.name, RunFolder(path).last.name} & set(strangers):
        raise RunError(
            f"{path}: config.json is missing beside {', '.join(strangers[:3])}",
            hint="bring it back from a backup, or choose another folder with --out",
        )
    if strangers:
        raise RunError(
            f"{path}: the folder is not empty and holds no run ({', '.join(strangers[:3])})",
            hint="choose another folder with --out",
        )


def _next(path: Path) -> Path:
    return path.with_name(path.name + NEXT)


def _settle(path: Path) -> None:
    """Put a file's next version in its place."""
    with disk_errors(path, needed=0):
        os.replace(_next(path), path)
        sync_folder(path.parent)


def _run_of_checkpoint(path: Path) -> str | None:
    """The identity of the run that a checkpoint says it is of; None where it does not say."""
    try:
        with safe_open(path, framework="np") as opened:
            state = json.loads((opened.metadata() or {}).get(CHECKPOINT_FORMAT, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None
    return state.get("run") if isinstance(state, dict) else None


def _read_capped(path: Path) -> bytes:
    """A small file of a run; OSError where it is none."""
    descriptor = open_regular(path, follow_links=True)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise RunError(f"{path}: larger than {_MAX_JSON} bytes, which no run writes")
    return data


def _first_line(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.splitlines()[0][:300] if text else type(error).__name__


def find_runs(path: Path) -> list[Path]:
    """The run in a folder, or the runs one or two levels below it, seeds in numerical order.

    Raises
    ------
    RunError
        There is none.
    """
    if os.path.lexists(RunFolder(path).config):
        return [path]
    require_run(path)
    runs = [config.parent for pattern in ("*/config.json", "*/*/config.json") for config in path.glob(pattern)]
    return sorted(runs, key=lambda run: [_natural(part) for part in run.relative_to(path).parts])


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which seed-10 comes after seed-9."""
    return [(int(number or 0), words) for words, number in re.findall(r"(\D*)(\d*)", text)]
