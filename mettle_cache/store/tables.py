"""The Parquet files of a store: manifest (one row a clip) and samples (the annotation rows).

Both are written plain, without compression or dictionaries: the same rows give the same bytes, and a small file cannot
unfold into a large table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.files import LARGEST_TABLE, read_small, repair_hint

MANIFEST = "manifest.parquet"
SAMPLES = "samples.parquet"
_MOST_ROWS = 20_000_000
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}

MANIFEST_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("split", pa.string()),
        ("segments", pa.int64()),
        ("status", pa.string()),  # pending, ok or failed
        ("error", pa.string()),
        ("source", pa.string()),
        ("commit", pa.string()),  # the digest of the clip's commit record
    ]
)


def table_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    pq.write_table(plain, sink, compression="none", use_dictionary=False, data_page_version="1.0")
    return bytes(sink.getvalue())


def read_table(path: Path, *, store: Path) -> tuple[pa.Table, bytes]:
    """A table that :func:`table_bytes` wrote, and the file's bytes.

    Raises
    ------
    StoreCorruptError
        It is missing, not Parquet, or not written plain.
    """
    data = read_small(path, limit=LARGEST_TABLE, store=store)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_plain(file.metadata)
        table = file.read(use_threads=False)
        # damaged offsets or text would crash whoever looks at the values
        table.validate(full=True)
        return table, data
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StoreCorruptError(f"{path}: not a table of a store: {reason}", hint=repair_hint(store)) from error


def _check_plain(metadata: pq.FileMetaData) -> None:
    if metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"{metadata.num_rows:,} rows")
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.compression != "UNCOMPRESSED" or not set(chunk.encodings) <= _PLAIN:
                raise ValueError(
                    f"column {chunk.path_in_schema} is compressed ({chunk.compression}, {chunk.encodings})"
                )


def splits_of(clips: Sequence[str], samples: pa.Table) -> list[str]:
    """The split of each clip by its samples; several are joined by commas, none is empty."""
    if "split" not in samples.column_names:
        return [""] * len(clips)
    found: dict[str, dict[str, None]] = {clip: {} for clip in clips}
    for clip, split in zip(samples["clip"].to_pylist(), samples["split"].to_pylist(), strict=True):
        found[clip][str(split)] = None
    return [",".join(found[clip]) for clip in clips]


def pending_manifest(clips: Sequence[str], samples: pa.Table, segments: int) -> pa.Table:
    """The manifest of a store that has no clip yet: it tells other processes the ids."""
    count = len(clips)
    columns = [range(count), clips, splits_of(clips, samples), [segments] * count, ["pending"] * count]
    return pa.table([*columns, *([[""] * count] * 3)], schema=MANIFEST_SCHEMA)
