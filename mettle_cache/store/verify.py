"""Checking that every byte of a store is what was committed, and repairing a store that is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import CRC_BYTES, crc32c, crc_bytes, digest
from mettle_cache.store.format.files import MANIFEST, open_regular, read_fully
from mettle_cache.store.format.layout import ArrayLayout
from mettle_cache.store.format.manifest import misfit_shards, read_commit, read_manifest
from mettle_cache.store.format.metadata import READY, StoreMetadata, damaged_files, load_metadata, read_ready
from mettle_cache.store.format.records import CommitRecord, ReadyRecord
from mettle_cache.store.writing.lifecycle import commits_digest, forget_clips
from mettle_cache.store.writing.locks import FINISHING, LOCKS

THREADS = 4


class Advance(Protocol):
    """Called after each clip with the bytes that were checked."""

    def __call__(self, n: int, *, nbytes: int) -> None: ...


@dataclass(frozen=True)
class Problem:
    """One problem of a store; ``clip`` and ``layer`` are empty where a file belongs to none or to all."""

    what: str
    file: str
    clip: str = ""
    layer: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.clip and f"clip {self.clip}", self.layer) if part)
        return f"{f'{where}: ' if where else ''}{self.file}: {self.what}"


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

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


@dataclass(frozen=True)
class _ClipState:
    commit: CommitRecord | None
    digest: str
    problems: tuple[Problem, ...]
    nbytes: int


def verify_store(path: Path | str, *, deep: bool = False, advance: Advance | None = None) -> VerifyReport:
    """Check a store: metadata, commits and sizes; with ``deep`` every byte of every shard.

    Raises
    ------
    StoreMissingError
        There is no store.
    StoreCorruptError
        Its root metadata are damaged, so nothing else can be told.
    """
    metadata = load_metadata(Path(path))
    problems: list[Problem] = []
    ready = _ready(metadata, problems)
    vouched = metadata.static_digests() if ready is None else ready.files
    problems += [Problem(what, name) for name, what in damaged_files(metadata, vouched)]
    ids, expected = _names(metadata, ready)
    states = []
    with ThreadPoolExecutor(THREADS) as executor:
        for state in executor.map(partial(_check_clip, metadata, ids, expected, deep), range(metadata.clips)):
            states.append(state)
            problems += state.problems
            if advance is not None:
                advance(1, nbytes=state.nbytes)
    if ready is not None:
        problems += _disagreements(ready, states)
        stored = [clip for clip, state in enumerate(states) if state.commit is None or state.commit.status == "ok"]
        problems += [Problem("not a file of the store; remove it", name) for name in unexpected_files(metadata, stored)]
    commits = [state.commit for state in states if state.commit is not None]
    pending = [state for state in states if state.commit is None and not state.problems]
    return VerifyReport(
        path=Path(path),
        deep=deep,
        finished=ready is not None or any(problem.file == READY for problem in problems),
        clips=sum(commit.status == "ok" for commit in commits),
        failed=sum(commit.status == "failed" for commit in commits),
        pending=len(pending),
        nbytes=sum(state.nbytes for state in states),
        problems=tuple(problems),
        damaged=tuple(clip for clip, state in enumerate(states) if state.problems),
    )


def repair_store(report: VerifyReport) -> int:
    """Forget the clips that a report found damaged, and ``READY``: the next extraction makes them anew.

    Nothing that is intact is touched. Returns the number of clips forgotten.
    """
    if report.problems:
        forget_clips(load_metadata(report.path), report.damaged)
    return len(report.damaged)


def unexpected_files(metadata: StoreMetadata, stored: Sequence[int]) -> Iterator[str]:
    """Paths, within the store, of files that a finished store with shards of the clips ``stored`` does not have.

    Locks are not reported: a run that looks at a finished store holds one, and when it is killed the next run takes it
    away.
    """
    expected = {READY, FINISHING, MANIFEST, *metadata.static_digests()}
    expected |= {str(metadata.commit_path(clip).relative_to(metadata.path)) for clip in range(metadata.clips)}
    expected |= {array.shard_path(clip) for array in metadata.layout for clip in stored}
    for folder, folders, files in os.walk(metadata.path):
        folders[:] = sorted(name for name in folders if name != LOCKS)
        prefix = os.path.relpath(folder, metadata.path)
        for name in sorted(files):
            path = name if prefix == "." else f"{prefix}/{name}"
            if path not in expected:
                yield path


def _ready(metadata: StoreMetadata, problems: list[Problem]) -> ReadyRecord | None:
    try:
        return read_ready(metadata)
    except StoreCorruptError as error:
        problems.append(Problem(error.message, READY))
        return None


def _names(metadata: StoreMetadata, ready: ReadyRecord | None) -> tuple[Sequence[str], Sequence[str]]:
    """Clip ids, and the digest of each clip's commit, empty where it is not known."""
    unknown = [""] * metadata.clips
    with suppress(StoreCorruptError):  # damage to these files is reported file by file
        if ready is not None:
            manifest = read_manifest(metadata, expected=ready.files[MANIFEST])
            return manifest.ids, manifest.commits
    with suppress(StoreCorruptError):
        return metadata.read_clip_ids(), unknown
    return unknown, unknown


def _check_clip(
    metadata: StoreMetadata, ids: Sequence[str], expected: Sequence[str], deep: bool, clip: int
) -> _ClipState:
    file = metadata.commit_path(clip)
    relative = str(file.relative_to(metadata.path))
    if not file.exists() and not file.is_symlink():
        lost = (Problem("the commit record is missing", relative, ids[clip]),) if expected[clip] else ()
        return _ClipState(None, "", lost, 0)
    try:
        commit, data = read_commit(metadata, clip)
    except StoreCorruptError as error:
        return _ClipState(None, "", (Problem(error.message, relative, ids[clip]),), 0)
    if expected[clip] and expected[clip] != digest(data):
        return _ClipState(commit, digest(data), (Problem("not the record in the manifest", relative, ids[clip]),), 0)
    if commit.status == "failed":
        return _ClipState(commit, digest(data), (), 0)
    problems = [
        Problem(what, metadata.layout[position].shard_path(clip), commit.clip, _whole(metadata.layout[position]))
        for position, what in misfit_shards(metadata, clip)
    ]
    nbytes = 0
    if deep and not problems:
        for array in metadata.layout:
            problems += _check_shard(metadata, array, clip, commit)
            nbytes += array.shard_bytes
    return _ClipState(commit, digest(data), tuple(problems), nbytes)


def _check_shard(metadata: StoreMetadata, array: ArrayLayout, clip: int, commit: CommitRecord) -> Iterator[Problem]:
    import numpy as np

    relative = array.shard_path(clip)
    data = bytearray(array.shard_bytes)
    try:
        descriptor = open_regular(metadata.path / relative)
        with open(descriptor, "rb", buffering=0) as file:
            count = read_fully(file.fileno(), [memoryview(data)], 0, array.shard_bytes)
    except OSError as error:
        yield Problem(error.strerror or str(error), relative, commit.clip, _whole(array))
        return
    if count != array.shard_bytes or data[array.index_offset :] != array.index:
        yield Problem("the shard index is damaged", relative, commit.clip, _whole(array))
    for block in range(array.blocks):
        where = array.span(range(block, block + 1))
        start = array.chunk_offset(block)
        chunk = memoryview(data)[start : start + array.chunk_bytes]
        value = crc32c(chunk)
        if f"{value:08x}" != commit.crc32c[array.name][block]:
            yield Problem(f"the {array.part} are not those that were committed", relative, commit.clip, where)
        elif data[start + array.chunk_bytes :][:CRC_BYTES] != crc_bytes(value):
            yield Problem("the stored checksum is damaged", relative, commit.clip, where)
        elif array.dtype.startswith("float") and not np.isfinite(np.frombuffer(chunk, array.dtype)).all():
            yield Problem(f"the {array.part} are not finite", relative, commit.clip, where)


def _disagreements(ready: ReadyRecord, states: list[_ClipState]) -> Iterator[Problem]:
    if any(state.commit is None for state in states):
        return  # already reported, clip by clip
    if commits_digest([state.digest for state in states]) != ready.commits:
        yield Problem("the commits are not those that READY vouches for", READY)


def _whole(array: ArrayLayout) -> str:
    return array.span(range(array.blocks))
