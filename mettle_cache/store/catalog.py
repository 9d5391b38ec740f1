"""Which stores are there, and what one holds."""

from __future__ import annotations

import os
from pathlib import Path

from mettle_cache.errors import MettleError
from mettle_cache.layers import group_by_array
from mettle_cache.store.format.metadata import READY, load_head
from mettle_cache.store.format.ready import read_ready
from mettle_cache.store.format.spec import FORMAT_VERSION
from mettle_cache.store.reading.token_store import TokenStore


def find_stores(folder: Path | str) -> list[Path]:
    """Finished stores in a folder, the one that was finished last first. Whatever is no store is passed over."""
    folder = Path(folder)
    candidates = sorted(folder.glob("*.zarr")) if folder.is_dir() else []
    return sorted((path for path in candidates if _is_finished(path)), key=_finished_at, reverse=True)


def describe_store(path: Path | str) -> dict[str, object]:
    """What is in a store, finished or not, and what made it; JSON.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        As :meth:`TokenStore.open`.
    """
    store = TokenStore.open(path, allow_unfinished=True)
    ready = read_ready(load_head(Path(path)))
    committed = sum(status == "ok" for status in store.statuses)
    splits = store.samples["split"].to_pylist() if "split" in store.samples.column_names else []
    return {
        "path": str(path),
        "format": FORMAT_VERSION,
        "finished": ready is not None,
        "dataset": store.dataset,
        "codec": store.codec,
        "segments": store.segments,
        "clips": len(store.clips),
        "committed": committed,
        "failed": store.failed,
        "rows": {split: splits.count(split) for split in dict.fromkeys(splits)},
        "nbytes": store.nbytes,
        "bytes_per_clip": store.nbytes // committed if committed else 0,
        "stages": [
            {"array": array, "layers": len(members), "tokens": members[0].tokens, "width": members[0].width}
            for array, members in group_by_array(store.layers).items()
        ],
        "key_digest": store.key_digest,
        "key": dict(store.key),
        "provenance": dict(store.provenance),
    }


def _is_finished(path: Path) -> bool:
    try:
        return read_ready(load_head(path)) is not None
    except MettleError:
        return False


def _finished_at(path: Path) -> int:
    return os.stat(path / READY).st_mtime_ns
