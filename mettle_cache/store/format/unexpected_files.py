"""Files in a store's folder that no store has: left by a killed writer, or put there by somebody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from mettle_cache.store.format.metadata import READY, StoreHead
from mettle_cache.store.format.ready import static_digests
from mettle_cache.store.format.tables import MANIFEST
from mettle_cache.store.writing.locks import FINISHING, LOCKS


def stray_files(head: StoreHead, stored: Sequence[int]) -> Iterator[str]:
    """Paths, within the store, of files that a finished store with shards of the clips ``stored`` does not have.

    Locks are no strays: a run that looks at a finished store holds one, and if it is killed the next run takes it away.
    """
    own = {READY, FINISHING, MANIFEST, *static_digests(head)}
    own |= {str(head.commit_path(clip).relative_to(head.path)) for clip in range(head.clips)}
    own |= {array.shard_path(clip) for array in head.layout for clip in stored}
    for folder, folders, files in os.walk(head.path):
        folders[:] = sorted(name for name in folders if name != LOCKS)
        prefix = os.path.relpath(folder, head.path)
        for name in sorted(files):
            path = name if prefix == "." else f"{prefix}/{name}"
            if path not in own:
                yield path
