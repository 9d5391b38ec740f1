"""Writing a store: clip by clip, in any order, from many threads and processes, which may be killed at any time.

A clip's data are made durable, then its commit record; a shard is sealed when its clips are through, and ``READY``
comes last. A clip whose writing was interrupted is written again from the start, so a finished store has the same bytes
however often that happened.
``READY`` vouches for every byte: what this writer did not write itself it reads back and compares before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import PARTIAL
from mettle_cache.store.format.manifest import (
    ManifestRow,
    NamedCommits,
    manifest_so_far,
    misfit_shards,
    open_manifest,
    shard_sizes,
)
from mettle_cache.store.format.metadata import COMMITS, StoreMetadata, load_metadata, read_ready
from mettle_cache.store.format.records import LONGEST_ERROR, CommitRecord
from mettle_cache.store.format.spec import FORMAT_VERSION, StoreSpec
from mettle_cache.store.reading.clip_check import Advance, Problem, byte_problems, check_in_threads
from mettle_cache.store.writing.clip_log import KnownRows
from mettle_cache.store.writing.durable import disk_errors
from mettle_cache.store.writing.lifecycle import (
    commits_digest,
    create_store,
    finish_store,
    refuse_old_format,
)
from mettle_cache.store.writing.locks import PartLock, finish_lock, part_clips
from mettle_cache.store.writing.open_shards import MOST_OPEN, OpenShards
from mettle_cache.store.writing.shard_files import ShardFiles
from mettle_cache.store.writing.shards import build_chunks, check_tokens, largest_values
from mettle_cache.tokens import LayerTokens


@dataclass(frozen=True)
class StoreReport:
    """The state of a store: clips committed, clips failed, bytes of all shards, clips that are still pending."""

    clips: int
    failed: int
    bytes: int
    pending: int = 0

    @property
    def finished(self) -> bool:
        return self.pending == 0


class StoreWriter:
    """Writes a store; a context manager that gives up its claim on a part at the end.

    One process (the coordinator of a part) calls :meth:`pending` and :meth:`finish`; any number of threads, and of
    processes that :meth:`join`, call :meth:`write_clip` and :meth:`fail_clip` for different clips.
    """

    def __init__(self, metadata: StoreMetadata, clips: tuple[str, ...]) -> None:
        self.metadata = metadata
        self.clips = clips
        self._lock: PartLock | None = None
        # clips whose bytes were written, or read and compared, since this writer was opened
        self._borne_out: set[int] = set()
        self._known = KnownRows(metadata, clips)
        self._shards = OpenShards(metadata, self._known)

    @classmethod
    def create_or_resume(cls, path: Path | str, spec: StoreSpec) -> Self:
        """Open the store for writing; make it if there is none, restore its metadata if that is damaged.

        Raises
        ------
        StoreKeyError
            A store of another configuration lies there; names every field that differs.
        StoreError
            Something else lies there, or an unfinished store of an older format.
        """
        return cls(create_store(Path(path), spec), spec.clips)

    @classmethod
    def join(cls, path: Path | str) -> Self:
        """Open a store that another process has made, to write clips into it."""
        metadata = load_metadata(Path(path))
        return cls(metadata, metadata.read_clip_ids())

    @property
    def path(self) -> Path:
        return self.metadata.path

    @property
    def sealed(self) -> bool:
        """Whether the store has an intact ``READY``."""
        try:
            return read_ready(self.metadata) is not None
        except StoreCorruptError:
            return False

    def pending(self, part: tuple[int, int] = (0, 1), *, retry_failed: bool = True, compare: bool = True) -> list[int]:
        """Claim a part until :meth:`close`, sweep what a killed writer left in it, and list the clips still to write.

        A clip is done when its record is intact and its shards are long enough for it; ``retry_failed`` lists failed
        clips too. With ``compare``, clips of an unfinished store are read back as well (:meth:`read_back`), and those
        that are damaged are listed.

        Raises
        ------
        StoreBusyError
            Another process has claimed clips of this part.
        StoreError
            There are such clips in a store of an older format, which is not written any more.
        """
        clips = self.clips_of(part)
        self.close()
        sealed = self.sealed
        with disk_errors(self.path, needed=0):
            self._lock = PartLock(self.path, part, len(self.metadata.shards))
            self._sweep(clips, sealed=sealed)
        if compare and not sealed:
            self.read_back(self.unread(part))
        done = ("ok",) if retry_failed else ("ok", "failed")
        lacking = [clip for clip, row in self._states(clips) if row is None or row.status not in done]
        if lacking:
            refuse_old_format(self.metadata)
        return lacking

    def clips_of(self, part: tuple[int, int]) -> range:
        """The clips of a part: those of whole shards. Raises UsageError where there is no such part."""
        return part_clips(part, len(self.clips), self.metadata.clips_each)

    def made_of(self) -> dict[int, str]:
        """The digest of the media that each committed clip was made of, by clip index."""
        try:
            return open_manifest(self.metadata, read_ready(self.metadata)).made_of
        except StoreCorruptError:
            # whoever reads or verifies the store is told of the damage; the commits say the same
            return manifest_so_far(self.metadata).made_of

    def forget(self, made_of: Mapping[int, str]) -> None:
        """Withdraw ``READY`` and the commits of clips that are to be made of other media; they are pending then.

        With each clip comes the digest of the media that it was made of: one that another process has written since,
        of other media, stays.
        """
        refuse_old_format(self.metadata)
        stale: dict[int, list[int]] = {}
        for clip, source in made_of.items():
            row = self._rows(self.metadata.shard(clip)).get(clip)
            if row is not None and row.source == source:
                stale.setdefault(self.metadata.shard(clip), []).append(clip)
        self._withdraw(stale)

    def bytes_of_copies(self, clips: Iterable[int]) -> int:
        """The most bytes that copies of sealed shards take at a time while these clips are written into them."""
        shards = {self.metadata.shard(clip) for clip in clips}
        copied = [shard for shard in shards if any(row.status == "ok" for row in self._rows(shard).values())]
        return min(len(copied), MOST_OPEN) * self.metadata.clips_each * self.metadata.clip_bytes

    def write_clip(self, index: int, tokens: Mapping[str, LayerTokens], *, source: str) -> int:
        """Write one clip, ``[T, N, *]`` codes by layer name; it is durable and committed on return.

        ``source`` is the digest of the media that it was made from. Returns the bytes of its shards.

        Raises
        ------
        TokensError
            They are not those of the layer table, or not finite; names the clip and the layer. Nothing has changed.
        NoRoomError
            The disk is full; the clip is not committed.
        """
        clip = self._clip_id(index)
        refuse_old_format(self.metadata)
        check_tokens(tokens, self.metadata.layout, clip)
        largest = largest_values(tokens, self.metadata.layers, clip)
        chunks = [build_chunks(array, tokens) for array in self.metadata.layout]
        record = self._record(
            index,
            status="ok",
            source=source,
            nbytes=self.metadata.clip_bytes,
            crc32c={part.array.name: list(part.checksums) for part in chunks},
            max_abs=largest,
        )
        with self._shards.use(self.metadata.shard(index)) as files:
            files.prepare(index)
            files.write(index, chunks)
            files.commit(record)
        self._borne_out.add(index)
        return self.metadata.clip_bytes

    def fail_clip(self, index: int, error: str, source: str | None = None) -> None:
        """Record that a clip cannot be extracted; what an earlier attempt may have left of it goes.

        A clip that failed for the same reason before is left as it is, and so is a finished store.
        """
        record = self._record(index, status="failed", source=source, error=error[:LONGEST_ERROR])
        shard = self.metadata.shard(index)
        row = self._rows(shard).get(index)
        if row is not None and row.commit == digest(record.to_bytes()):
            return
        refuse_old_format(self.metadata)
        with self._shards.use(shard) as files:
            files.commit(record)

    def unread(self, part: tuple[int, int] = (0, 1)) -> list[int]:
        """Clips of a part with tokens that this writer neither wrote nor read: :meth:`finish` has to read them back."""
        states = self._states(self.clips_of(part))
        return [clip for clip, row in states if row and row.status == "ok" and clip not in self._borne_out]

    def unread_before_sealing(self) -> list[int]:
        """What :meth:`finish` would read back: nothing while clips are pending, or where ``READY`` vouches for all."""
        rows = self._all_rows()
        return self.unread() if len(rows) == len(self.clips) and not self._vouched_for(rows) else []

    def read_back(self, clips: Iterable[int], advance: Advance | None = None) -> dict[int, Sequence[Problem]]:
        """Compare the bytes of clips with their commits, and forget those that are damaged, so that they are pending.

        Returns what is wrong with each clip that is damaged.
        """
        damaged: dict[int, Sequence[Problem]] = {}
        clips = list(clips)
        rows = (self._rows(self.metadata.shard(clip)).get(clip) for clip in range(len(self.clips)))
        commits = NamedCommits(self.metadata, self.clips, [row.commit if row else "" for row in rows])

        def compare(clip: int) -> list[Problem]:
            try:
                commit = commits.read(clip)
            except StoreCorruptError as error:
                return [Problem(error.message, str(self.metadata.commit_path(clip)), self.clips[clip])]
            return byte_problems(self.metadata, clip, commit, finished=False)

        for clip, problems in zip(clips, check_in_threads(compare, clips), strict=True):
            if problems:
                damaged[clip] = problems
                self._withdraw({self.metadata.shard(clip): [clip]})
            else:
                self._borne_out.add(clip)
            if advance is not None:
                advance(1, nbytes=self.metadata.clip_bytes)
        return damaged

    def trust(self, index: int) -> None:
        """Take it that another process wrote a clip in this very run, so that it need not be read back."""
        self._borne_out.add(index)

    def finish(self) -> StoreReport:
        """Write the manifest and ``READY`` if every clip is committed or failed, else say how many are pending.

        Clips that this writer neither wrote nor read are read back first, unless the store is finished already; those
        that are damaged are pending then. Doing it twice, or in two processes at once, does no harm: they write the
        same bytes. A store with failed clips can be finished; the next run tries them again.
        """
        self.read_back(self.unread_before_sealing())
        self._shards.close()
        report = self._report(self._all_rows())
        self.close()
        if not report.finished:
            return report
        with finish_lock(self.path):
            if self.metadata.format == FORMAT_VERSION and not self._seal_the_rest():
                return self._report(self._all_rows())
            rows = self._all_rows()
            report = self._report(rows)
            if self.metadata.format == FORMAT_VERSION and report.finished:
                finish_store(self.metadata, rows)
        return report

    def status(self, index: int) -> str | None:
        """``ok`` or ``failed`` for a clip that is committed with its files in place, None for one still to write."""
        return next(row.status if row else None for _, row in self._states([index]))

    def statuses(self) -> list[str | None]:
        """:meth:`status` of every clip."""
        return [row.status if row else None for _, row in self._states(range(len(self.clips)))]

    def close(self) -> None:
        """Give up the claim of :meth:`pending`, if there is one; shards that are complete are sealed."""
        self._give_up(seal=True)

    def _give_up(self, *, seal: bool) -> None:
        try:
            self._shards.close(seal=seal)
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # after an error the disk may be full; the run that goes on seals what is complete
        self._give_up(seal=kind is None)

    def _clip_id(self, index: int) -> str:
        if not 0 <= index < len(self.clips):
            raise UsageError(f"there is no clip {index}; {self.path} has clips 0 to {len(self.clips) - 1}")
        return self.clips[index]

    def _record(self, index: int, **facts: object) -> CommitRecord:
        empty: dict[str, object] = {"error": None, "nbytes": 0, "crc32c": {}, "max_abs": {}}
        known = {"index": index, "clip": self._clip_id(index), "key": self.metadata.record.key_digest}
        return CommitRecord.model_validate({**empty, **known, **facts})

    def _report(self, rows: Sequence[ManifestRow]) -> StoreReport:
        done = sum(row.status == "ok" for row in rows)
        return StoreReport(
            clips=done,
            failed=len(rows) - done,
            bytes=done * self.metadata.clip_bytes,
            pending=len(self.clips) - len(rows),
        )

    def _seal_the_rest(self) -> bool:
        """Seal every shard that is not; False where that showed damage, so that clips are pending."""
        vouched = self._vouched_for(self._all_rows())
        whole = True
        for shard in self.metadata.shards:
            if not ShardFiles(self.metadata, self._known, shard).is_sealed(deep=not vouched):
                with self._shards.use(shard) as files:
                    whole = files.seal() and whole
        self._shards.close()
        return whole

    def _withdraw(self, clips: Mapping[int, Sequence[int]]) -> None:
        """Take back the records of clips, given by shard number."""
        for shard, members in clips.items():
            with self._shards.use(shard) as files:
                files.withdraw(members)

    def _rows(self, shard: int) -> dict[int, ManifestRow]:
        return self._known.rows(shard)

    def _all_rows(self) -> list[ManifestRow]:
        """The manifest's rows of the clips that are committed or failed, in order."""
        return [row for _, row in self._states(range(len(self.clips))) if row is not None]

    def _vouched_for(self, rows: Sequence[ManifestRow]) -> bool:
        """Whether the store is finished, and of these very commits."""
        ready = read_ready(self.metadata) if self.sealed else None
        return ready is not None and ready.commits == commits_digest([row.commit for row in rows])

    def _states(self, clips: Sequence[int]) -> Iterator[tuple[int, ManifestRow | None]]:
        """The row of each of these clips, in order; None without one, or where its shards do not hold its place."""
        shard, rows, sizes = -1, dict[int, ManifestRow](), list[int | str]()
        for clip in clips:
            if self.metadata.shard(clip) != shard:
                shard = self.metadata.shard(clip)
                rows, sizes = self._rows(shard), shard_sizes(self.metadata, shard, finished=False)
            row = rows.get(clip)
            misfits = row is not None and row.status == "ok" and misfit_shards(self.metadata, clip, sizes)
            yield clip, None if misfits else row

    def _sweep(self, clips: range, *, sealed: bool) -> None:
        """Remove temporary files of a part that was just claimed: no other process can be writing them.

        Those of shards that are being filled stay, but for a finished store, where they are nobody's.
        """
        shards = {self.metadata.shard(clip) for clip in clips}
        layout = self.metadata.layout
        filling = set() if sealed else {f"{array.shard_name(shard)}{PARTIAL}" for array in layout for shard in shards}
        for folder in (self.path / COMMITS, *(self.path / array.name for array in layout)):
            for leftover in folder.glob(f"*{PARTIAL}"):
                number = leftover.name.removeprefix("c.").split(".")[0]
                is_ours = number.isascii() and number.isdigit() and int(number) in shards
                if is_ours and leftover.name not in filling:
                    leftover.unlink(missing_ok=True)
