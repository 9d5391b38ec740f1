"""Reading the records of a shard number's clips: a log with a line a clip (FORMAT.md section 6).

While clips are written, lines are appended, so that the last line of a log may be torn; it is no record then. In
format 1 each clip has a file with its record, which is read here like a log of one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.files import open_regular, read_small, repair_hint
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.records import CommitRecord

_LARGEST_COMMIT = 1 << 20
# a log has a line a clip; a writer that was started twice may have added some of them twice
_LINES_A_CLIP = 4


@dataclass(frozen=True)
class LogLine:
    """A line of a log: its bytes, and the record that it is, or else what is wrong with it.

    ``torn`` says that it is the last one and has no end, as a writer that was killed leaves it.
    """

    data: bytes
    record: CommitRecord | None
    what: str = ""
    torn: bool = False


def read_log(metadata: StoreMetadata, shard: int) -> Iterator[LogLine]:
    """The lines of a shard number's log, one after another; a damaged one does not hide those behind it.

    Raises
    ------
    StoreCorruptError
        The log is missing or cannot be read.
    """
    for data in log_lines(metadata, shard):
        try:
            record = CommitRecord.from_bytes(data)
            check_belongs(record, metadata, shard)
        except ValueError as error:
            yield LogLine(data, None, str(error).splitlines()[0], torn=not data.endswith(b"\n"))
        else:
            yield LogLine(data, record)


def log_lines(metadata: StoreMetadata, shard: int) -> Iterator[bytes]:
    """The lines as they are. It stops where no log goes on: behind what is too long for a line, or too many of them.

    Raises
    ------
    StoreCorruptError
        The log is missing or cannot be read.
    """
    path = metadata.log_path(shard)
    if metadata.format == 1:
        yield read_small(path, limit=_LARGEST_COMMIT, store=metadata.path)
        return
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            for _ in range(_LINES_A_CLIP * len(metadata.members(shard))):
                line = file.readline(_LARGEST_COMMIT + 1)
                if line:
                    yield line
                if not line or len(line) > _LARGEST_COMMIT:
                    return
            if file.read(1):
                yield b"\n"
    except OSError as error:
        raise StoreCorruptError(f"{path}: {error.strerror or error}", hint=repair_hint(metadata.path)) from error


def check_belongs(record: CommitRecord, metadata: StoreMetadata, shard: int) -> None:
    """Raise ValueError for a record that is not that of a clip of this shard number of this store."""
    members = metadata.members(shard)
    if record.index not in members:
        raise ValueError(f"it is that of clip {record.index}")
    if record.key != metadata.record.key_digest or record.format != metadata.format:
        raise ValueError("it is of another store")
    done = record.status == "ok"
    expected = {array.name: array.blocks for array in metadata.layout} if done else {}
    if {name: len(checksums) for name, checksums in record.crc32c.items()} != expected:
        raise ValueError("its arrays are not those of the store")
    if record.nbytes != (metadata.clip_bytes if done else 0):
        raise ValueError("it counts other bytes than a clip of the store has")
