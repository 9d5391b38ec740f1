"""The Parquet files of a store, as bytes.

They are written plain, without compression or dictionaries: the same rows give the same bytes, and a small file cannot
unfold into a large table. They are parsed only when their digest fits: pyarrow crashes on some damaged files.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.files import LARGEST_TABLE, read_small, repair_hint
from mettle_cache.store.format.spec import digest

MANIFEST = "manifest.parquet"
SAMPLES = "samples.parquet"
_MOST_ROWS = 20_000_000
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}


def table_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same table gives the same bytes."""
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
    data = read_small(path, limit=LARGEST_TABLE, store=store)
    if digest(data) != expected:
        raise StoreCorruptError(f"{path}: not the bytes that were written", hint=repair_hint(store))
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
