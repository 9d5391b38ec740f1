"""The small files of a store: regular files only, never through a link, never larger than they may be.

The Parquet tables are written plain, without compression or
dictionaries: the same rows give the same bytes, and a small file cannot unfold into a large table. They are parsed only
when their digest fits: pyarrow crashes on some damaged files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreCorruptError
from mettle_cache.paths import command_line
from mettle_cache.store.format.digests import digest

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CLIPS_FILE = "clips.json"
SAMPLES = "samples.parquet"
MANIFEST = "manifest.parquet"
# the folder of what is kept beside a store
COMPANIONS = "companions"
# behind the name of a shard that is being filled, and of every file that is not whole yet
PARTIAL = ".partial"
LARGEST_RECORD = 2 << 20
LARGEST_TABLE = 256 << 20
MOST_VECTORS = os.sysconf("SC_IOV_MAX")
_MOST_ROWS = 1 << 22
_MOST_VALUES = 1 << 26
# a length and a character of a clip's id
_LEAST_ROW_BYTES = 5
# flags are packed, and a column may be empty beside others that are not
_VALUES_A_BYTE = 8
_LARGEST_FOOTER = 256 << 10
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}


def repair_hint(store: Path) -> str:
    """The hint that tells a user how to repair a damaged store, or a companion, which is made of its store's tokens."""
    if store.parent.name == COMPANIONS:
        return f"{command_line('rm -r', store)}, and run the same command again: it makes it anew of the store's tokens"
    return (
        f"run `{command_line('mettle verify --deep --repair', store)}`, then the same `mettle extract` command "
        "again; "
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
        count = os.preadv(descriptor, targets[:MOST_VECTORS], offset + total)
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
        The file is missing, has another digest, is not written plain, or declares more than its bytes can hold.
    """
    import pyarrow as pa

    data = read_expected(path, expected=expected, limit=LARGEST_TABLE, store=store)
    try:
        table = open_table(data).read(use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreCorruptError(f"{path}: not a table of a store: {reason}", hint=repair_hint(store)) from error
    return table


def open_table(data: bytes) -> pq.ParquetFile:
    """A table's file, opened but not read: what it declares is what its bytes can hold.

    Every row names a clip, so it has at least a length and a character; only columns without values take less.

    Raises
    ------
    ValueError, OSError, pyarrow.ArrowException
        It is no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(data) > LARGEST_TABLE:
        raise ValueError(f"{len(data):,} bytes, more than the {LARGEST_TABLE:,} that a table may have")
    footer = int.from_bytes(data[-8:-4], "little")
    if footer > _LARGEST_FOOTER:
        raise ValueError(f"its footer has {footer:,} bytes, more than the {_LARGEST_FOOTER:,} it may have")
    file = pq.ParquetFile(pa.BufferReader(data))
    metadata = file.metadata
    values = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.compression != "UNCOMPRESSED" or not set(chunk.encodings) <= _PLAIN:
                how = f"{chunk.compression}, {', '.join(chunk.encodings)}"
                raise ValueError(f"column {chunk.path_in_schema[:80]!a} is compressed ({how})")
            values += chunk.num_values
    if metadata.num_rows * _LEAST_ROW_BYTES > len(data) or metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"{metadata.num_rows:,} rows in {len(data):,} bytes")
    if values > min(_MOST_VALUES, len(data) * _VALUES_A_BYTE):
        raise ValueError(f"{values:,} values in {len(data):,} bytes")
    return file
