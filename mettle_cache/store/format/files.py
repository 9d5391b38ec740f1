"""The small files of a store: regular files only, never through a link, never larger than they may be.

``clips.json`` holds the ids of the clip axis. The Parquet tables are written plain, without compression or
dictionaries: the same rows give the same bytes, and a small file cannot unfold into a large table. They are parsed only
when their digest fits: pyarrow crashes on some damaged files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import canonical_json, digest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CLIPS_FILE = "clips.json"
SAMPLES = "samples.parquet"
MANIFEST = "manifest.parquet"
LARGEST_JSON = 64 << 20
LARGEST_TABLE = 256 << 20
_MOST_VECTORS = os.sysconf("SC_IOV_MAX")
_MOST_ROWS = 20_000_000
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}


def repair_hint(store: Path) -> str:
    """The hint that tells a user how to repair a damaged store."""
    return (
        f"run `mettle verify {store} --deep --repair`, then the same `mettle extract` command again; "
        "it extracts only the clips that were damaged"
    )


def open_regular(path: Path | str, *, folder: int | None = None, follow_links: bool = False) -> int:
    """A read-only descriptor of a regular file; OSError for anything else, a link too unless links are followed."""
    links = 0 if follow_links else os.O_NOFOLLOW
    descriptor = os.open(path, os.O_RDONLY | links | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def file_digest(path: Path) -> str:
    """blake2b of a regular file's bytes, 32 hexadecimal characters; OSError where there is none."""
    with os.fdopen(open_regular(path, follow_links=True), "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_fully(descriptor: int, targets: list[memoryview], offset: int, nbytes: int) -> int:
    """Fill ``targets``, ``nbytes`` in all, one after the other from ``offset`` on.

    Returns the bytes read, fewer only at the end of the file.
    """
    total = 0
    while total < nbytes:
        count = os.preadv(descriptor, targets[:_MOST_VECTORS], offset + total)
        total += count
        if count == 0 or total == nbytes:
            break
        # the kernel stops where it likes: a signal, 2 GiB, the limit on vectors
        while count >= targets[0].nbytes:
            count -= targets[0].nbytes
            targets = targets[1:]
        targets = [targets[0][count:], *targets[1:]]
    return total


def read_small(path: Path, *, limit: int, store: Path) -> bytes:
    """A whole file of at most ``limit`` bytes.

    Raises
    ------
    StoreCorruptError
        It is missing, a link, unreadable or too large.
    """
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size <= limit:
                return file.read(limit)
    except OSError as error:
        raise StoreCorruptError(f"{path}: {error.strerror or error}", hint=repair_hint(store)) from error
    raise StoreCorruptError(f"{path}: {size:,} bytes, more than the {limit:,} such a file may have")


def read_expected(path: Path, *, expected: str, limit: int, store: Path) -> bytes:
    """A whole file whose digest is known.

    Raises
    ------
    StoreCorruptError
        As :func:`read_small`, or the file has another digest.
    """
    data = read_small(path, limit=limit, store=store)
    if digest(data) != expected:
        raise StoreCorruptError(f"{path}: not the bytes that were written", hint=repair_hint(store))
    return data


def clip_ids_bytes(clips: Sequence[str]) -> bytes:
    """The content of ``clips.json``: canonical JSON, so that its digest is the one in the key."""
    return canonical_json(list(clips))


def parse_clip_ids(data: bytes, *, path: Path, count: int, expected: str, store: Path) -> tuple[str, ...]:
    """The ids, in the order of the clip axis, of which there must be ``count``.

    Raises
    ------
    StoreCorruptError
        The content is not the one with the digest ``expected``.
    """
    ids = json.loads(data) if digest(data) == expected else None
    if not isinstance(ids, list) or len(ids) != count:
        raise StoreCorruptError(f"{path}: not the clips that the store's key names", hint=repair_hint(store))
    return tuple(str(clip) for clip in ids)


def table_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same table gives the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    pq.write_table(plain, sink, compression="none", use_dictionary=False, data_page_version="1.0")
    return bytes(sink.getvalue())


def read_table(path: Path, *, expected: str, store: Path) -> pa.Table:
    """A table that :func:`table_bytes` wrote, of a file whose digest is known.

    Raises
    ------
    StoreCorruptError
        The file is missing, has another digest, or is not written plain.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_expected(path, expected=expected, limit=LARGEST_TABLE, store=store)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_plain(file.metadata)
        table = file.read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreCorruptError(f"{path}: not a table of a store: {reason}", hint=repair_hint(store)) from error
    return table


def _check_plain(metadata: pq.FileMetaData) -> None:
    if metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"{metadata.num_rows:,} rows")
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.compression != "UNCOMPRESSED" or not set(chunk.encodings) <= _PLAIN:
                how = f"{chunk.compression}, {', '.join(chunk.encodings)}"
                raise ValueError(f"column {chunk.path_in_schema} is compressed ({how})")
