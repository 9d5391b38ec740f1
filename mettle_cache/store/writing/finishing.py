"""The end of a store: the manifest, then ``READY`` with the digest of everything; and taking both away again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mettle_cache.store.format.manifest import manifest_table
from mettle_cache.store.format.metadata import COMMITS, READY, StoreHead
from mettle_cache.store.format.ready import static_digests
from mettle_cache.store.format.records import CommitRecord, ReadyRecord
from mettle_cache.store.format.spec import digest, digest_of
from mettle_cache.store.format.tables import MANIFEST, SAMPLES, read_table, table_bytes
from mettle_cache.store.writing.durable import PARTIAL, remove_files, write_file
from mettle_cache.store.writing.locks import sweep_locks


def finish_store(head: StoreHead, commits: Sequence[CommitRecord]) -> None:
    """Write the manifest and ``READY`` for a complete list of commits, and remove what no finished store has."""
    samples = read_table(head.path / SAMPLES, expected=head.record.samples, store=head.path)
    manifest = table_bytes(manifest_table(head, commits, samples))
    ready = ReadyRecord(
        key=head.record.key_digest,
        clips=sum(commit.status == "ok" for commit in commits),
        failed=sum(commit.status == "failed" for commit in commits),
        nbytes=sum(commit.nbytes for commit in commits),
        commits=commits_digest([digest(commit.to_bytes()) for commit in commits]),
        files={**static_digests(head), MANIFEST: digest(manifest)},
    ).to_bytes()
    _write_if_other(head.path / MANIFEST, manifest)
    for leftover in _leftovers(head):
        leftover.unlink(missing_ok=True)
    sweep_locks(head.path)
    _write_if_other(head.path / READY, ready)


def unready(head: StoreHead) -> None:
    """Take ``READY``, and the manifest that it vouches for, away before anything in the store changes."""
    for name in (READY, MANIFEST):
        if (head.path / name).exists():
            remove_files([head.path / name])


def commits_digest(digests: Sequence[str]) -> str:
    """The digest of all commits: of the list of their digests, in clip order."""
    return digest_of(list(digests))


def _leftovers(head: StoreHead) -> Iterator[Path]:
    folders = {head.path, head.path / COMMITS}
    for array in head.layout:
        folders |= {head.path / array.name, (head.path / array.name).parent}
    for folder in sorted(folders):
        yield from folder.glob(f"*{PARTIAL}")


def _write_if_other(path: Path, content: bytes) -> None:
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    write_file(path, content)
