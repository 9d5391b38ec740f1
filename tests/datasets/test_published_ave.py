"""The annotation files that were published, where they are at hand: 4,143 rows that no fixture can stand for."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.ave_annotations import CATEGORIES, SPLITS, read_categories
from mettle_cache.datasets.textfile import Problems

_REPOSITORY = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("METTLE_ANNOTATIONS", _REPOSITORY.parent / "shared" / "annotations"))

pytestmark = pytest.mark.skipif(
    not (PUBLISHED / "ave" / "Annotations.txt").exists(),
    reason="the published annotations are not here; METTLE_ANNOTATIONS names their folder",
)


@pytest.fixture(scope="module")
def published():
    return open_dataset("ave", PUBLISHED / "ave")


def _copy(to: Path, *names: str) -> Path:
    to.mkdir()
    for name in names:
        shutil.copy(PUBLISHED / "ave" / name, to / Path(name).name)
    return to


def test_counts_of_rows_ids_and_splits(published) -> None:
    samples = published.samples
    assert samples.num_rows == 4143
    assert len(published.clips) == len(set(samples["clip"].to_pylist())) == 4097
    assert Counter(samples["split"].to_pylist()) == {"train": 3339, "val": 402, "test": 402}
    assert samples["row"].to_pylist() == list(range(4143))
    assert published.notes == ()


def test_the_row_without_an_event(published) -> None:
    (row,) = [row for row in published.samples.to_pylist() if row["start"] == row["end"]]
    assert (row["row"], row["clip"], row["category"], row["end"]) == (26, "VWi2ENBuTbw", "Church bell", 0)


def test_categories_are_in_canonical_order(published, tmp_path: Path) -> None:
    assert read_categories(PUBLISHED / "ave", Problems()) == CATEGORIES == read_categories(tmp_path, Problems())
    counts = Counter(published.samples["category"].to_pylist())
    specified = (
        "188 176 171 184 188 175 178 187 172 163 182 138 102 99 186 176 160 183 100 83 69 160 60 64 180 109 154 156"
    )
    assert [counts[name] for name in CATEGORIES] == [int(count) for count in specified.split()]


def test_both_flavours_give_the_same_samples(published, tmp_path: Path) -> None:
    root = _copy(tmp_path / "AVE", *(f"{split}Set.txt" for split in SPLITS))
    shutil.copy(PUBLISHED / "ave_noheader" / "Annotations.txt", root)
    assert open_dataset("ave", root).samples.equals(published.samples)


def test_order_files_alone_give_the_same_samples(published, tmp_path: Path) -> None:
    root = _copy(tmp_path / "AVE", "Annotations.txt", *(f"{split}_order.h5" for split in SPLITS))
    assert open_dataset("ave", root).samples.equals(published.samples)


def test_order_files_reproduce_the_set_files_line_by_line() -> None:
    rows = (PUBLISHED / "ave_noheader" / "Annotations.txt").read_text(encoding="utf-8").splitlines()
    for split in SPLITS:
        with h5py.File(PUBLISHED / "ave" / f"{split}_order.h5") as file:
            order = file["order"][()]
        assert [rows[index] for index in order] == (PUBLISHED / "ave" / f"{split}Set.txt").read_text().splitlines()


def test_labels_rebuilt_from_start_and_end_are_the_published_ones(published) -> None:
    start, end = (published.samples[name].to_numpy()[:, None] for name in ("start", "end"))
    seconds = np.arange(10)
    with h5py.File(PUBLISHED / "ave_noheader" / "labels_closs.h5") as file:
        labels = file["avadataset"][()]
    assert ((seconds >= start) & (seconds < end) != labels.astype(bool)).sum() == 0


def test_listing_eight_thousand_missing_files_takes_no_time(published) -> None:
    started = time.process_time()
    problems = published.problems()
    assert len(problems) == 2 * 4097
    assert time.process_time() - started < 3
