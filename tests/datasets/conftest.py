"""A small data set to read in each layout, and annotation files to break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mettle_cache.datasets.synthetic import write_demo_ave

ROWS = (
    "Church bell&-aaaaaaaaaa&good&0&10",
    "Male speech, man speaking&_bbbbbbbbbb&good&2&7",
    "Frying (food)&cccccccccc1&good&0&0",
    "Banjo&dddddddddd2&good&3&9",
    "Mandolin&dddddddddd2&good&3&9",
    "Bark&eeeeeeeeee3&good&5&10",
)
"""Two categories for one id, an event of no length, ids that start with - and _: all of it occurs in AVE."""

HEADER = "Category&VideoID&Quality&StartTime&EndTime"

AnnotationWriter = Callable[..., Path]


@pytest.fixture
def annotate(tmp_path: Path) -> AnnotationWriter:
    """Write Annotations.txt and split files (rows 0 to 2 train, 3 val, the others test) and return the root."""

    def write(
        rows: Sequence[str] = ROWS,
        *,
        header: bool = True,
        splits: dict[str, Sequence[str]] | None = None,
        categories: Sequence[str] | None = None,
    ) -> Path:
        root = tmp_path / "AVE"
        root.mkdir()
        lines = ([HEADER] if header else []) + list(rows)
        (root / "Annotations.txt").write_text("\n".join(lines), encoding="utf-8")
        for split, members in (splits or {"train": rows[:3], "val": rows[3:4], "test": rows[4:]}).items():
            (root / f"{split}Set.txt").write_text("\n".join(members) + "\n", encoding="utf-8")
        if categories is not None:
            (root / "categories.txt").write_text("\n".join(categories) + "\n", encoding="utf-8")
        return root

    return write


@pytest.fixture(scope="session")
def frames_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips as pictures and .wav files; to be read only."""
    root = tmp_path_factory.mktemp("demo") / "frames"
    write_demo_ave(root, train=3, val=1, test=2, seed=5, layout="frames")
    return root


@pytest.fixture(scope="session")
def mp4_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same six clips as videos; to be read only."""
    root = tmp_path_factory.mktemp("demo") / "mp4"
    write_demo_ave(root, train=3, val=1, test=2, seed=5, layout="mp4")
    return root


@pytest.fixture
def rows() -> tuple[str, ...]:
    return ROWS
