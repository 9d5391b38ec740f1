"""Checking that every byte of a store is what was committed, and repairing a store that is damaged."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import MANIFEST
from mettle_cache.store.format.manifest import read_commit, read_manifest
from mettle_cache.store.format.metadata import (
    COMMITS,
    READY,
    StoreMetadata,
    damaged_files,
    damaged_root,
    load_metadata,
    missing_so_far,
    read_ready,
)
from mettle_cache.store.format.records import ReadyRecord
from mettle_cache.store.reading.clip_check import Advance, Problem, byte_problems, check_in_threads, size_problems
from mettle_cache.store.writing.lifecycle import commits_digest, forget_clips, keys_of_records
from mettle_cache.store.writing.locks import FINISHING, LOCKS

# a folder that was unpacked into a store by mistake need not be listed to the end
_MOST_STRAYS = 1000


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The outcome of a check. ``nbytes`` were read from shards; ``damaged`` are indexes of clips to extract again."""

    path: Path
    deep: bool
    finished: bool
    clips: int
    failed: int
    pending: int
    nbytes: int
    problems: tuple[Problem, ...]
    damaged: tuple[int, ...]

    @property
    def ok(self) -> bool:
        return self.finished and not self.problems

    @property
    def state(self) -> str:
        """``ok``, ``damaged`` or ``unfinished``: what a run that was stopped leaves is unfinished, and no damage."""
        return "ok" if self.ok else "damaged" if self.problems else "unfinished"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok, "state": self.state}


@dataclass(frozen=True)
class _ClipState:
    """What is known of a clip: ``status`` and ``digest`` of its commit, empty without one, and its problems."""

    status: str = ""
    digest: str = ""
    problems: tuple[Problem, ...] = ()
    nbytes: int = 0


def verify_store(path: Path | str, *, deep: bool = False, advance: Advance | None = None) -> VerifyReport:
    """Check a store: metadata, commits and sizes; with ``deep`` every byte of every shard.

    Raises
    ------
    StoreMissingError
        There is no store.
    StoreUnfinishedError
        The run that was making it was stopped before it wrote the root metadata.
    StoreCorruptError
        Its root metadata are damaged, so nothing else can be told.
    """
    metadata = load_metadata(Path(path))
    problems: list[Problem] = []
    ready = _ready(metadata, problems)
    finished = ready is not None or bool(problems)
    vouched = metadata.static_digests() if ready is None else ready.files
    awaited = () if finished else missing_so_far(metadata)
    problems += [Problem(what, name) for name, what in damaged_files(metadata, vouched) if name not in awaited]
    ids, expected = _names(metadata, ready)
    # of an unfinished store, or one whose ids are lost, only records that are there are believed
    clips = range(metadata.clips) if ready is not None and ids else metadata.committed_clips()
    check = partial(_check_clip, metadata, ids, expected, deep)
    states = _check_clips(check, clips, metadata.clips, advance)
    if not any(state.status for state in states.values()):
        _refuse_foreign_root(metadata)
    problems += [problem for state in states.values() for problem in state.problems]
    if ready is not None:
        problems += _disagreements(metadata, ready, states)
        stored = {clip for clip, state in states.items() if state.status != "failed"}
        problems += [Problem("not a file of the store; remove it", name) for name in unexpected_files(metadata, stored)]
    statuses = [state.status for state in states.values()]
    lost = sum(not state.status and bool(state.problems) for state in states.values())
    return VerifyReport(
        path=Path(path),
        deep=deep,
        finished=finished,
        clips=statuses.count("ok"),
        failed=statuses.count("failed"),
        pending=metadata.clips - statuses.count("ok") - statuses.count("failed") - lost,
        nbytes=sum(state.nbytes for state in states.values()),
        problems=tuple(problems),
        damaged=tuple(clip for clip, state in states.items() if state.problems),
    )


def repair_store(report: VerifyReport) -> int:
    """Forget the clips that a report found damaged, and ``READY``: the next extraction makes them anew.

    Nothing that is intact is touched. Returns the number of clips forgotten.
    """
    if report.problems:
        forget_clips(load_metadata(report.path), report.damaged)
    return len(report.damaged)


def unexpected_files(metadata: StoreMetadata, stored: Collection[int]) -> Iterator[str]:
    """Paths, within the store, of files and folders that a finished store with shards of the clips ``stored`` does not
    have; a thousand at most.

    Locks are not reported: a run that looks at a finished store holds one, and when it is killed the next run takes it
    away.
    """
    known = {READY, FINISHING, MANIFEST, *metadata.static_digests()}
    own_folders = {COMMITS, *(str(parent) for name in known for parent in Path(name).parents)}
    arrays = {array.name: array for array in metadata.layout}

    def belongs(folder: str, name: str) -> bool:
        number = _NUMBER.match(name)
        if number is None or f"{folder}/{name}" in known:
            return f"{folder}/{name}".removeprefix("/") in known
        clip = int(number[1])
        if folder in arrays:
            return name == arrays[folder].shard_name(clip) and clip in stored
        return folder == COMMITS and name == metadata.commit_path(clip).name and clip < metadata.clips

    left = _MOST_STRAYS
    for path, folders, files in os.walk(metadata.path):
        folder = os.path.relpath(path, metadata.path).removeprefix(".")
        here = {name: f"{folder}/{name}".removeprefix("/") for name in (*folders, *files)}
        foreign = [name for name in folders if here[name] not in own_folders and here[name] != LOCKS]
        folders[:] = sorted(name for name in folders if name not in foreign and here[name] != LOCKS)
        for name in sorted([*foreign, *(name for name in files if not belongs(folder, name))]):
            if left == 0:
                return
            left -= 1
            yield here[name]


# the clip's number in the name of a shard, c.7.0.0, or of a record, 00000007.json
_NUMBER = re.compile(r"(?:c\.)?([0-9]{1,9})\.")


def _ready(metadata: StoreMetadata, problems: list[Problem]) -> ReadyRecord | None:
    try:
        return read_ready(metadata)
    except StoreCorruptError as error:
        problems.append(Problem(error.message, READY))
        return None


def _refuse_foreign_root(metadata: StoreMetadata) -> None:
    """Where every record is of one other store, the root is the file that is wrong: no clip is to be forgotten."""
    keys = set(keys_of_records(metadata))
    if keys and metadata.record.key_digest not in keys:
        raise damaged_root(metadata.path, "is that of another store than the records beside it")


def _names(metadata: StoreMetadata, ready: ReadyRecord | None) -> tuple[Sequence[str], Sequence[str]]:
    """Clip ids, and the digest of each clip's commit; empty where they are not known."""
    with suppress(StoreCorruptError):  # damage to these files is reported file by file
        if ready is not None:
            manifest = read_manifest(metadata, expected=ready.files[MANIFEST])
            return manifest.ids, manifest.commits
    with suppress(StoreCorruptError):
        return metadata.read_clip_ids(), ()
    return (), ()


def _check_clips(
    check: Callable[[int], _ClipState], clips: Sequence[int], total: int, advance: Advance | None
) -> dict[int, _ClipState]:
    states: dict[int, _ClipState] = {}
    for clip, state in zip(clips, check_in_threads(check, clips), strict=True):
        states[clip] = state
        if advance is not None:
            advance(1, nbytes=state.nbytes)
    if advance is not None and len(clips) < total:
        advance(total - len(clips), nbytes=0)
    return states


def _check_clip(
    metadata: StoreMetadata, ids: Sequence[str], expected: Sequence[str], deep: bool, clip: int
) -> _ClipState:
    file = metadata.commit_path(clip)
    relative = str(file.relative_to(metadata.path))
    name = ids[clip] if ids else ""
    if not os.path.lexists(file):
        return _ClipState(problems=(Problem("the commit record is missing", relative, name),))
    try:
        commit, data = read_commit(metadata, clip)
    except StoreCorruptError as error:
        return _ClipState(problems=(Problem(error.message, relative, name),))
    own = digest(data)
    if ids and commit.clip != name:
        return _ClipState(commit.status, own, (Problem("the record of another clip", relative, name),))
    if expected and expected[clip] != own:
        return _ClipState(commit.status, own, (Problem("not the record in the manifest", relative, name),))
    if commit.status == "failed":
        return _ClipState(commit.status, own)
    misfits = size_problems(metadata, clip, commit)
    if misfits or not deep:
        return _ClipState(commit.status, own, tuple(misfits))
    return _ClipState(commit.status, own, tuple(byte_problems(metadata, clip, commit)), metadata.clip_bytes)


def _disagreements(metadata: StoreMetadata, ready: ReadyRecord, states: dict[int, _ClipState]) -> Iterator[Problem]:
    if len(states) < metadata.clips or not all(state.status for state in states.values()):
        return  # already reported, clip by clip
    if commits_digest([state.digest for state in states.values()]) != ready.commits:
        yield Problem("the commits are not those that READY vouches for", READY)
    statuses = [state.status for state in states.values()]
    counts = (statuses.count("ok"), statuses.count("failed"), statuses.count("ok") * metadata.clip_bytes)
    if counts != (ready.clips, ready.failed, ready.nbytes):
        yield Problem("it counts other clips or bytes than the commits do", READY)
