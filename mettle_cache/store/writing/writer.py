"""Writing a store: clip by clip, in any order, from many threads and processes, which may be killed at any time.

A clip's shards are written whole and made durable, then its commit record; ``READY`` comes last. A clip whose writing
was interrupted is written again from the start, so a finished store has the same bytes however often that happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.store.format.manifest import find_commit, manifest_so_far, misfit_shards, open_manifest
from mettle_cache.store.format.metadata import COMMITS, StoreMetadata, load_metadata, read_ready
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.writing.durable import PARTIAL, disk_errors, remove_files, write_file, write_files
from mettle_cache.store.writing.lifecycle import create_store, finish_store, forget_clips, unready
from mettle_cache.store.writing.locks import PartLock, finish_lock, part_range
from mettle_cache.store.writing.shards import build_shard, check_tokens, largest_values
from mettle_cache.tokens import LayerTokens

_LONGEST_ERROR = 2000


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

    def pending(self, part: tuple[int, int] = (0, 1), *, retry_failed: bool = True) -> list[int]:
        """Claim a part until :meth:`close`, sweep what a killed writer left in it, and list the clips still to write.

        A clip is done when its commit record is intact and its files have their sizes; ``retry_failed`` lists failed
        clips too.

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
            index,
            status="ok",
            source=source,
            nbytes=self.metadata.clip_bytes,
            crc32c={shard.array.name: list(shard.checksums) for shard in shards},
            max_abs=largest,
        )
        return self.metadata.clip_bytes

    def fail_clip(self, index: int, error: str, source: str | None = None) -> None:
        """Record that a clip cannot be extracted, and remove what an earlier attempt may have left of it."""
        unready(self.metadata)
        remove_files([self.metadata.commit_path(index), *self.metadata.shard_paths(index)])
        self._commit(index, status="failed", source=source, error=error[:_LONGEST_ERROR])

    def finish(self) -> StoreReport:
        """Write the manifest and ``READY`` if every clip is committed or failed, else say how many are pending.

        Doing it twice, or in two processes at once, does no harm: they write the same bytes. A store with failed clips
        can be finished; the next run tries them again.
        """
        states = [self._state(clip) for clip in range(len(self.clips))]
        commits = [commit for commit in states if commit is not None]
        done = sum(commit.status == "ok" for commit in commits)
        report = StoreReport(
            clips=done,
            failed=len(commits) - done,
            bytes=sum(commit.nbytes for commit in commits),
            pending=len(self.clips) - len(commits),
        )
        self.close()
        if report.finished:
            with finish_lock(self.path):
                finish_store(self.metadata, commits)
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

    def _commit(self, index: int, **facts: object) -> None:
        empty: dict[str, object] = {"error": None, "nbytes": 0, "crc32c": {}, "max_abs": {}}
        known = {"index": index, "clip": self._clip_id(index), "key": self.metadata.record.key_digest}
        record = CommitRecord.model_validate({**empty, **known, **facts})
        write_file(self.metadata.commit_path(index), record.to_bytes())

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
