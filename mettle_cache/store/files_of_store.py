"""The files that a finished store has, and no others."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from mettle_cache.store.format.files import COMPANIONS, MANIFEST
from mettle_cache.store.format.metadata import COMMITS, READY, StoreMetadata
from mettle_cache.store.writing.locks import FINISHING, LOCKS

# a folder that was unpacked into a store by mistake need not be listed to the end
_MOST_STRAYS = 1000
# the number in the name of a shard, c.7.0.0, or of a log, 00000007.jsonl
_NUMBER = re.compile(r"(?:c\.)?([0-9]{1,9})\.")


def unexpected_files(metadata: StoreMetadata, stored: Collection[int]) -> Iterator[str]:
    """Paths, within the store, of files and folders that a finished store with shards of the clips ``stored`` does not
    have; a thousand at most.

    Companions and locks are not reported: a run that looks at a finished store holds a lock, and when it is killed the
    next run takes it away.
    """
    known = {READY, FINISHING, MANIFEST, *metadata.static_digests()}
    own_folders = {COMMITS, *(str(parent) for name in known for parent in Path(name).parents)}
    arrays = {array.name: array for array in metadata.layout}
    shards = {metadata.shard(clip) for clip in stored}
    left_alone = {LOCKS} if metadata.format == 1 else {LOCKS, COMPANIONS}

    def belongs(folder: str, name: str) -> bool:
        number = _NUMBER.match(name)
        if number is None or f"{folder}/{name}" in known:
            return f"{folder}/{name}".removeprefix("/") in known
        shard = int(number[1])
        if folder in arrays:
            return name == arrays[folder].shard_name(shard) and shard in shards
        return folder == COMMITS and name == metadata.log_path(shard).name and shard in metadata.shards

    left = _MOST_STRAYS
    for path, folders, files in os.walk(metadata.path):
        folder = os.path.relpath(path, metadata.path).removeprefix(".")
        here = {name: f"{folder}/{name}".removeprefix("/") for name in (*folders, *files)}
        foreign = [name for name in folders if here[name] not in own_folders and here[name] not in left_alone]
        folders[:] = sorted(name for name in folders if name not in foreign and here[name] not in left_alone)
        for name in sorted([*foreign, *(name for name in files if not belongs(folder, name))]):
            if left == 0:
                return
            left -= 1
            yield here[name]
