"""What a page is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mettle_cache.pipelines.compare.groups import Groups


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """``split`` and ``groups`` as in a table, where stores and media lie, and ``out``, where the page will."""

    split: str = "test"
    groups: Groups | None = None
    store: Path | None = None
    root: Path | None = None
    out: Path = Path()
