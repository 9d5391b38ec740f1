"""Finding stores, and describing one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mettle_cache.errors import MettleError, StoreCorruptError, StoreKeyError
from mettle_cache.layers import group_by_array
from mettle_cache.store.companion_stores import list_companions
from mettle_cache.store.format.digests import digest_of
from mettle_cache.store.format.intact import check_files
from mettle_cache.store.format.manifest import open_manifest
from mettle_cache.store.format.metadata import (
    READY,
    StoreMetadata,
    load_metadata,
    read_ready,
)
from mettle_cache.store.precision_record import find_precision


def find_stores(folder: Path | str) -> list[Path]:
    """Finished stores in a folder, the newest first. Anything that is not a store is ignored."""
    folder = Path(folder)
    candidates = sorted(folder.glob("*.zarr")) if folder.is_dir() else []
    return sorted(
        (path for path in candidates if _is_finished(path)),
        key=lambda path: os.stat(path / READY).st_mtime_ns,
        reverse=True,
    )


def describe_store(path: Path | str) -> dict[str, object]:
    """The content of a store, finished or not, and where it comes from, as JSON.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        As :meth:`mettle_cache.store.reading.token_store.TokenStore.open`.
    """
    metadata = load_metadata(Path(path))
    ready = read_ready(metadata)
    check_files(metadata, ready)
    manifest = open_manifest(metadata, ready)
    samples = metadata.read_samples()
    committed = manifest.statuses.count("ok")
    splits = samples["split"].to_pylist() if "split" in samples.column_names else []
    key = metadata.record.key
    content = digest_of(list(manifest.commits)) if ready is not None else None
    companions = list_companions(metadata.path, metadata.record.key_digest, content)
    return {
        "path": str(path),
        "format": metadata.format,
        "finished": ready is not None,
        "dataset": key.dataset,
        "codec": key.codec,
        "segments": key.segments,
        "clips": metadata.clips,
        "committed": committed,
        "failed": manifest.failed,
        "rows": {split: splits.count(split) for split in dict.fromkeys(splits)},
        "nbytes": metadata.clip_bytes * committed,
        "bytes_per_clip": metadata.clip_bytes if committed else 0,
        "static_bytes": sum(array.nbytes for array in metadata.static_layout),
        "clips_per_shard": metadata.clips_each,
        "files": _count_files(metadata.path),
        "stages": [
            {
                "array": array,
                "layers": len(members),
                "tokens": members[0].tokens,
                "width": members[0].width,
                "cell": members[0].cell,
            }
            for array, members in group_by_array(metadata.layers).items()
        ],
        "precision": _precision(metadata),
        "companions": [companion.to_json() for companion in companions],
        "key_digest": metadata.record.key_digest,
        "key": key.model_dump(mode="json"),
        "provenance": dict(metadata.record.provenance),
    }


def _precision(metadata: StoreMetadata) -> dict[str, object] | None:
    """The record of half precision; None where there is none, or it is damaged, which is for verify to say."""
    with suppress(StoreCorruptError, StoreKeyError):
        record = find_precision(metadata.path, metadata.record.key_digest)
        return None if record is None else record.to_json()
    return None


def _count_files(path: Path) -> int:
    """Files of a store, whatever they are: what a quota counts."""
    return sum(len(files) for _, _, files in os.walk(path))


def _is_finished(path: Path) -> bool:
    try:
        return read_ready(load_metadata(path)) is not None
    except MettleError:
        return False
