"""Writing a store: clip by clip, in any order, from many threads and processes, which may be killed at any time.

A clip's shards are written whole and made durable, then its commit record; ``READY`` comes last. A clip whose writing
was interrupted is written again from the start, so a finished store has the same bytes however often that happened.
``READY`` vouches for every byte: what this writer did not write itself it reads back and compares before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.store.format.manifest import (
    ManifestRow,
    find_commit,
    manifest_so_far,
    misfit_shards,
    open_manifest,
)
from mettle_cache.store.format.metadata import COMMITS, StoreMetadata, load_metadata, read_ready
from mettle_cache.store.format.records import LONGEST_ERROR, CommitRecord
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.clip_check import Advance, Problem, byte_problems, check_in_threads
from mettle_cache.store.writing.durable import PARTIAL, disk_errors, remove_files, write_file, write_files
from mettle_cache.store.writing.lifecycle import (
    commits_digest,
    create_store,
    finish_store,
    forget_clips,
    unready,
)
from mettle_cache.store.writing.locks import PartLock, finish_lock, part_range
from mettle_cache.store.writing.shards import build_shard, check_tokens, largest_values
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

    @classmethod
    def create_or_resume(cls, path: Path | str, spec: StoreSpec) -> Self:
        """Open the store for writing; make it if there is none, restore its metadata if that is damaged.

        Raises
        ------
        StoreKeyError
            A store of another configuration lies there; names every field that differs.
        StoreError
            Something else lies there.
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

        A clip is done when its commit record is intact and its files have their sizes; ``retry_failed`` lists failed
        clips too. With ``compare``, clips of an unfinished store are read back as well (:meth:`read_back`), and those
        that are damaged are listed.

        Raises
        ------
        StoreBusyError
            Another process has claimed clips of this part.
        """
        clips = part_range(part, len(self.clips))
        self.close()
        with disk_errors(self.path, needed=0):
            self._lock = PartLock(self.path, part, len(self.clips))
            self._sweep(clips)
        if compare and not self.sealed:
            self.read_back(self.unread(part))
        return [clip for clip in clips if not self._is_done(clip, retry_failed)]

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
        commits = {clip: find_commit(self.metadata, clip) for clip in made_of}
        stale = [clip for clip, commit in commits.items() if commit and commit.source == made_of[clip]]
        forget_clips(self.metadata, stale)

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
        check_tokens(tokens, self.metadata.layout, clip)
        largest = largest_values(tokens, self.metadata.layers, clip)
        shards = [build_shard(array, tokens) for array in self.metadata.layout]
        unready(self.metadata)
        remove_files([self.metadata.commit_path(index)])
        write_files([(self.path / shard.array.shard_path(index), shard.buffers) for shard in shards])
        self._commit(
            self._record(
                index,
                status="ok",
                source=source,
                nbytes=self.metadata.clip_bytes,
                crc32c={shard.array.name: list(shard.checksums) for shard in shards},
                max_abs=largest,
            )
        )
        self._borne_out.add(index)
        return self.metadata.clip_bytes

    def fail_clip(self, index: int, error: str, source: str | None = None) -> None:
        """Record that a clip cannot be extracted, and remove what an earlier attempt may have left of it.

        A clip that failed for the same reason before is left as it is, and so is a finished store.
        """
        record = self._record(index, status="failed", source=source, error=error[:LONGEST_ERROR])
        shards = self.metadata.shard_paths(index)
        if find_commit(self.metadata, index) == record and not any(os.path.lexists(shard) for shard in shards):
            return
        unready(self.metadata)
        remove_files([self.metadata.commit_path(index), *shards])
        self._commit(record)

    def unread(self, part: tuple[int, int] = (0, 1)) -> list[int]:
        """Clips of a part with tokens that this writer neither wrote nor read: :meth:`finish` has to read them back."""
        clips = [clip for clip in part_range(part, len(self.clips)) if clip not in self._borne_out]
        commits = ((clip, self._state(clip)) for clip in clips)
        return [clip for clip, commit in commits if commit is not None and commit.status == "ok"]

    def unread_before_sealing(self) -> list[int]:
        """What :meth:`finish` would read back: nothing while clips are pending, or where ``READY`` vouches for all."""
        rows = self._rows()
        return self.unread() if len(rows) == len(self.clips) and not self._vouched_for(rows) else []

    def read_back(self, clips: Iterable[int], advance: Advance | None = None) -> dict[int, Sequence[Problem]]:
        """Compare the bytes of clips with their commits, and forget those that are damaged, so that they are pending.

        Returns what is wrong with each clip that is damaged.
        """
        damaged: dict[int, Sequence[Problem]] = {}
        clips = list(clips)
        for clip, problems in zip(clips, check_in_threads(self._compare, clips), strict=True):
            if problems:
                damaged[clip] = problems
                forget_clips(self.metadata, [clip])
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
        rows = self._rows()
        done = sum(row.status == "ok" for row in rows)
        report = StoreReport(
            clips=done,
            failed=len(rows) - done,
            bytes=done * self.metadata.clip_bytes,
            pending=len(self.clips) - len(rows),
        )
        self.close()
        if report.finished:
            with finish_lock(self.path):
                finish_store(self.metadata, rows)
        return report

    def status(self, index: int) -> str | None:
        """``ok`` or ``failed`` for a clip that is committed with its files in place, None for one still to write."""
        commit = self._state(index)
        return commit.status if commit is not None else None

    def close(self) -> None:
        """Give up the claim of :meth:`pending`, if there is one."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _clip_id(self, index: int) -> str:
        if not 0 <= index < len(self.clips):
            raise UsageError(f"there is no clip {index}; {self.path} has clips 0 to {len(self.clips) - 1}")
        return self.clips[index]

    def _record(self, index: int, **facts: object) -> CommitRecord:
        empty: dict[str, object] = {"error": None, "nbytes": 0, "crc32c": {}, "max_abs": {}}
        known = {"index": index, "clip": self._clip_id(index), "key": self.metadata.record.key_digest}
        return CommitRecord.model_validate({**empty, **known, **facts})

    def _commit(self, record: CommitRecord) -> None:
        write_file(self.metadata.commit_path(record.index), record.to_bytes())

    def _rows(self) -> list[ManifestRow]:
        """The manifest's rows of the clips that are committed or failed, in order."""
        commits = map(self._state, range(len(self.clips)))
        return [ManifestRow.of(commit) for commit in commits if commit is not None]

    def _vouched_for(self, rows: Sequence[ManifestRow]) -> bool:
        """Whether the store is finished, and of these very commits."""
        ready = read_ready(self.metadata) if self.sealed else None
        return ready is not None and ready.commits == commits_digest([row.commit for row in rows])

    def _compare(self, clip: int) -> list[Problem]:
        commit = self._state(clip)
        return [] if commit is None else byte_problems(self.metadata, clip, commit)

    def _state(self, clip: int) -> CommitRecord | None:
        """The commit of a clip; None without one, or where its shards are missing or have other sizes."""
        commit = find_commit(self.metadata, clip)
        if commit is None or commit.clip != self.clips[clip]:
            return None
        return None if commit.status == "ok" and misfit_shards(self.metadata, clip) else commit

    def _is_done(self, clip: int, retry_failed: bool) -> bool:
        commit = self._state(clip)
        return commit is not None and (commit.status == "ok" or not retry_failed)

    def _sweep(self, clips: range) -> None:
        """Remove temporary files of a part that was just claimed: no other process can be writing them."""
        folders = [self.path / COMMITS, *(self.path / array.name for array in self.metadata.layout)]
        for folder in folders:
            for leftover in folder.glob(f"*{PARTIAL}"):
                number = leftover.name.removeprefix("c.").split(".")[0]
                if number.isascii() and number.isdigit() and int(number) in clips:
                    leftover.unlink(missing_ok=True)
