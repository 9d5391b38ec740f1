"""The manifest, one row a clip: on disk in a finished store, put together from the commits of an unfinished one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from mettle_cache.errors import StoreCorruptError
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.clip_ids import read_clip_ids
from mettle_cache.store.format.commits import find_commit
from mettle_cache.store.format.files import repair_hint
from mettle_cache.store.format.metadata import StoreHead
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.format.spec import digest
from mettle_cache.store.format.tables import MANIFEST, read_table

_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("split", pa.string()),
        ("segments", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("source", pa.string()),
        ("commit", pa.string()),
    ]
)


@dataclass(frozen=True)
class Manifest:
    """By clip index: id, ``ok`` / ``failed`` / ``pending``, error, and the digest of the commit record."""

    ids: tuple[str, ...]
    statuses: tuple[str, ...]
    errors: tuple[str, ...]
    commits: tuple[str, ...]


def manifest_table(head: StoreHead, commits: Sequence[CommitRecord], samples: pa.Table) -> pa.Table:
    """The manifest of a finished store as it is written."""
    clips = [commit.clip for commit in commits]
    columns = [
        range(len(commits)),
        clips,
        splits_of(clips, samples),
        [head.segments] * len(commits),
        [commit.status for commit in commits],
        [commit.error or "" for commit in commits],
        [commit.source or "" for commit in commits],
        [digest(commit.to_bytes()) for commit in commits],
    ]
    return pa.table(columns, schema=_SCHEMA)


def read_manifest(head: StoreHead, *, expected: str) -> Manifest:
    """The manifest of a finished store, whose digest ``READY`` tells.

    Raises
    ------
    StoreCorruptError
        It is damaged.
    """
    table = read_table(head.path / MANIFEST, expected=expected, store=head.path)
    if table.schema != _SCHEMA or tuple(table["id"].to_pylist()) != read_clip_ids(head):
        raise StoreCorruptError(f"{head.path / MANIFEST}: not the clips of this store", hint=repair_hint(head.path))
    columns = (tuple(table[name].to_pylist()) for name in ("id", "status", "error", "commit"))
    return Manifest(*columns)


def manifest_so_far(head: StoreHead) -> Manifest:
    """What the commits of an unfinished store say. Raises StoreCorruptError when the clip ids are damaged."""
    ids = read_clip_ids(head)
    found = [find_commit(head, clip) for clip in range(len(ids))]
    commits = [commit if commit and commit.clip == clip else None for commit, clip in zip(found, ids, strict=True)]
    return Manifest(
        ids,
        statuses=tuple(commit.status if commit else "pending" for commit in commits),
        errors=tuple((commit.error or "") if commit else "" for commit in commits),
        commits=tuple(digest(commit.to_bytes()) if commit else "" for commit in commits),
    )


def splits_of(clips: Sequence[str], samples: pa.Table) -> list[str]:
    """The split of each clip by its samples; several are joined by commas, none is empty."""
    if "split" not in samples.column_names:
        return [""] * len(clips)
    found: dict[str, dict[str, None]] = {clip: {} for clip in clips}
    for members, split in zip(clips_of_samples(samples), samples["split"].to_pylist(), strict=True):
        for clip in members:
            found[clip][str(split)] = None
    return [",".join(found[clip]) for clip in clips]
