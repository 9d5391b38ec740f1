"""Checking that every byte of a store is what was committed, and repairing a store that is damaged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store.companion_stores import companions_to_check
from mettle_cache.store.companions import damaged_companions
from mettle_cache.store.files_of_store import unexpected_files
from mettle_cache.store.format.commit_log import LogLine, read_log
from mettle_cache.store.format.digests import digest, digest_of
from mettle_cache.store.format.files import COMPANIONS, MANIFEST, PARTIAL
from mettle_cache.store.format.intact import damaged_files, missing_so_far
from mettle_cache.store.format.manifest import read_manifest, shard_sizes
from mettle_cache.store.format.metadata import (
    READY,
    ROOT,
    StoreMetadata,
    damaged_root,
    load_metadata,
    read_ready,
)
from mettle_cache.store.format.records import ReadyRecord
from mettle_cache.store.reading.clip_check import (
    Advance,
    Problem,
    byte_problems,
    check_in_threads,
    shard_problems,
    size_problems,
)
from mettle_cache.store.writing.durable import remove_files
from mettle_cache.store.writing.lifecycle import commits_digest, forget_clips, keys_of_records, refuse_old_format


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The outcome of a check.

    ``nbytes`` were read from shards; ``damaged`` are indexes of clips to extract again, ``logs`` numbers of shards
    whose log holds something else than records, ``companions`` the damaged ones that are files. ``pooled`` are those
    that are stores themselves: they may be unfinished, and have the problems that are their own.
    """

    path: Path
    deep: bool
    finished: bool
    clips: int
    failed: int
    pending: int
    nbytes: int
    problems: tuple[Problem, ...]
    damaged: tuple[int, ...]
    logs: tuple[int, ...] = ()
    companions: tuple[str, ...] = ()
    pooled: tuple[VerifyReport, ...] = ()

    @property
    def ok(self) -> bool:
        return self.finished and not self.all_problems

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """Those of the store, and those of its companions, whose files are named from the store's folder on."""
        beside = (
            replace(problem, file=f"{COMPANIONS}/{companion.path.name}/{problem.file}")
            for companion in self.pooled
            for problem in companion.problems
        )
        return (*self.problems, *beside)

    @property
    def state(self) -> str:
        """``ok``, ``damaged`` or ``unfinished``: what a run that was stopped leaves is unfinished, and no damage."""
        return "ok" if self.ok else "damaged" if self.all_problems else "unfinished"

    def to_json(self) -> dict[str, object]:
        own = {"path": str(self.path), "ok": self.ok, "state": self.state}
        return {**asdict(self), **own, "pooled": [companion.to_json() for companion in self.pooled]}


@dataclass(frozen=True)
class _ClipState:
    """What is known of a clip: ``status`` and ``digest`` of its commit, empty without one, and its problems."""

    status: str = ""
    digest: str = ""
    problems: tuple[Problem, ...] = ()
    nbytes: int = 0


@dataclass
class _Store:
    """A store that is being checked, and what is expected of it.

    ``ids`` are empty where they are not known, and ``expected``, the digests of the commits by clip index, too.
    ``problems`` are of no clip.
    """

    metadata: StoreMetadata
    ready: ReadyRecord | None
    ids: Sequence[str]
    expected: Sequence[str]
    deep: bool
    problems: list[Problem] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """A clip to be checked: its line of the log, if there is one, and the sizes of its shards."""

    clip: int
    line: LogLine | None
    sizes: Sequence[int | str]


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
    store = _Store(metadata, ready, *_names(metadata, ready), deep, problems)
    states = _check_clips(store, advance)
    if not any(state.status for state in states.values()):
        _refuse_foreign_root(metadata)
    problems += [problem for state in states.values() for problem in state.problems]
    stored = {clip for clip, state in states.items() if state.status != "failed"}
    problems += _shard_problems(store, stored)
    if ready is not None:
        problems += _disagreements(metadata, ready, states)
        problems += [Problem("not a file of the store; remove it", name) for name in unexpected_files(metadata, stored)]
    companions = list(damaged_companions(metadata.path, metadata.record.key_digest, deep=deep))
    problems += [Problem(what, name) for name, what in companions]
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
        logs=tuple(store.logs),
        companions=tuple(name for name, _ in companions),
        pooled=tuple(_verify_companions(store, advance)),
    )


def clips_to_verify(metadata: StoreMetadata) -> int:
    """How many clips :func:`verify_store` tells ``advance`` of: those of the store and of its companions."""
    clips = metadata.clips
    for path in companions_to_check(metadata.path, metadata.record.key_digest, None):
        with suppress(MettleError):
            clips += load_metadata(path).clips
    return clips


def repair_store(report: VerifyReport) -> int:
    """Forget the clips that a report found damaged, and ``READY``: the next extraction makes them anew.

    It also writes the indexes of shards anew where they are damaged, and removes damaged companions; of one that is a
    store itself, it forgets clips. Nothing that is intact is touched. Returns the number of clips forgotten.

    Raises
    ------
    StoreError
        The store is of an older format, which is not written any more.
    """
    for companion in report.pooled:
        # without root metadata there is nothing to repair: it is made anew
        with suppress(StoreCorruptError):
            repair_store(companion)
    remove_files(report.path / name for name in report.companions)
    if len(report.problems) > len(report.companions):
        metadata = load_metadata(report.path)
        refuse_old_format(metadata)
        forget_clips(metadata, report.damaged, logs=report.logs)
    return len(report.damaged)


def _verify_companions(store: _Store, advance: Advance | None) -> Iterator[VerifyReport]:
    metadata = store.metadata
    content = digest_of(list(store.expected)) if store.expected else None
    for path in companions_to_check(metadata.path, metadata.record.key_digest, content):
        try:
            yield verify_store(path, deep=store.deep, advance=advance)
        except StoreCorruptError as error:
            yield _without_root(path, store.deep, error)
        except MettleError:
            continue  # stopped as it began, or taken away meanwhile


def _without_root(path: Path, deep: bool, error: StoreCorruptError) -> VerifyReport:
    return VerifyReport(
        path=path,
        deep=deep,
        finished=False,
        clips=0,
        failed=0,
        pending=0,
        nbytes=0,
        problems=(Problem(error.message, ROOT),),
        damaged=(),
    )


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


def _check_clips(store: _Store, advance: Advance | None) -> dict[int, _ClipState]:
    states: dict[int, _ClipState] = {}
    for clip, state in check_in_threads(partial(_check_clip, store), _find_clips(store)):
        states[clip] = state
        if advance is not None:
            advance(1, nbytes=state.nbytes)
    if advance is not None and len(states) < store.metadata.clips:
        advance(store.metadata.clips - len(states), nbytes=0)
    return states


def _find_clips(store: _Store) -> Iterator[_Found]:
    """The clips to be checked, in order.

    Of an unfinished store, or one whose ids are lost, only records that are there are believed.
    """
    metadata = store.metadata
    believed = store.ready is not None and bool(store.ids)
    for shard in metadata.shards if believed else metadata.logged_shards():
        members = metadata.members(shard)
        lines = _read_lines(store, shard)
        sizes = shard_sizes(metadata, shard, finished=store.ready is not None)
        if store.ready is None:
            found = {line.record.index: line for line in lines if line.record is not None}
            yield from (_Found(clip, found[clip], sizes) for clip in sorted(found))
        else:
            yield from (_Found(clip, line, sizes) for clip, line in zip_longest(members, lines[: len(members)]))


def _read_lines(store: _Store, shard: int) -> list[LogLine]:
    """The lines of a log; takes note of what does not belong into it, but as a killed writer leaves it."""
    log = str(store.metadata.log_path(shard).relative_to(store.metadata.path))
    try:
        lines = list(read_log(store.metadata, shard))
    except StoreCorruptError as error:
        # of a finished store each clip is told to lack its record
        if store.ready is None:
            store.problems.append(Problem(error.message, log))
            store.logs.append(shard)
        return []
    before = len(store.problems)
    if store.ready is None:
        damaged = [(number, line) for number, line in enumerate(lines, 1) if line.record is None and not line.torn]
        store.problems += [Problem(f"line {number} is no commit record: {line.what}", log) for number, line in damaged]
    elif len(lines) > len(store.metadata.members(shard)):
        store.problems.append(Problem("there is more in it than the records of its clips", log))
    if len(store.problems) > before:
        store.logs.append(shard)
    return lines


def _check_clip(store: _Store, found: _Found) -> tuple[int, _ClipState]:
    metadata, clip, line = store.metadata, found.clip, found.line
    log = str(metadata.commit_path(clip).relative_to(metadata.path))
    name = store.ids[clip] if store.ids else ""

    def lost(what: str, status: str = "", own: str = "") -> tuple[int, _ClipState]:
        return clip, _ClipState(status, own, (Problem(what, log, name),))

    if line is None:
        return lost("the commit record is missing")
    if line.record is None:
        return lost(f"damaged commit record: {line.what}")
    commit, own = line.record, digest(line.data)
    if commit.index != clip or (store.ids and commit.clip != name):
        return lost("the record of another clip")
    if store.expected and store.expected[clip] != own:
        return lost("not the record in the manifest", commit.status, own)
    if commit.status == "failed":
        return clip, _ClipState(commit.status, own)
    problems = size_problems(metadata, clip, commit, found.sizes, finished=store.ready is not None)
    if problems or not store.deep:
        return clip, _ClipState(commit.status, own, tuple(problems))
    problems = byte_problems(metadata, clip, commit, finished=store.ready is not None)
    return clip, _ClipState(commit.status, own, tuple(problems), metadata.clip_bytes)


def _shard_problems(store: _Store, stored: Collection[int]) -> Iterator[Problem]:
    """What is wrong with the shards beside their clips; of an unfinished store only with those that are sealed."""
    metadata = store.metadata
    for shard in metadata.shards if store.ready is not None else metadata.logged_shards():
        members = metadata.members(shard)
        name = store.ids[members[0]] if len(members) == 1 and store.ids else ""
        for array in metadata.layout:
            if store.ready is None and metadata.shard_file(array, shard, finished=False).name.endswith(PARTIAL):
                continue
            expected = stored if store.ready is not None else None
            for problem in shard_problems(metadata, array, shard, expected, deep=store.deep):
                yield replace(problem, clip=name)


def _disagreements(metadata: StoreMetadata, ready: ReadyRecord, states: dict[int, _ClipState]) -> Iterator[Problem]:
    if len(states) < metadata.clips or not all(state.status for state in states.values()):
        return  # already reported, clip by clip
    if commits_digest([state.digest for state in states.values()]) != ready.commits:
        yield Problem("the commits are not those that READY vouches for", READY)
    statuses = [state.status for state in states.values()]
    counts = (statuses.count("ok"), statuses.count("failed"), statuses.count("ok") * metadata.clip_bytes)
    if counts != (ready.clips, ready.failed, ready.nbytes):
        yield Problem("it counts other clips or bytes than the commits do", READY)
