"""Predictions of a task that this page knows nothing of: its table as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mettle_cache.pipelines.page.clips.clip_list import ClipList, Terms, rounded, scores_of
from mettle_cache.pipelines.report.text import printable

_HIDDEN = ("row", "clip", "scores")
_LETTERS = 200


def row_clips(tables: Sequence[pa.Table], terms: Terms) -> ClipList:
    """Items with ``v``, for every run the row's cells as text, in the order of ``names``."""
    first = tables[0]
    names = [name for name in first.column_names if name not in _HIDDEN]
    columns = [{name: table[name].to_pylist() for name in names} for table in tables]
    clips = first["clip"].to_pylist() if "clip" in first.column_names else list(range(len(first)))
    of_rows: Terms = [one if one is not None and len(one) == len(first) else None for one in terms]
    items = [
        {
            "id": printable(str(clip)),
            "s": scores_of(of_rows, place),
            "x": [None] * len(tables),
            "g": [],
            "v": [[_cell(of_run[name][place]) for name in names] for of_run in columns],
        }
        for place, clip in enumerate(clips)
    ]
    return ClipList(
        kind="rows", items=items, media=[[str(clip)] for clip in clips], names=[printable(name) for name in names]
    )


def _cell(value: Any) -> str:
    text = str(rounded(value)) if isinstance(value, float) else "" if value is None else str(value)
    return printable(text[:_LETTERS])
