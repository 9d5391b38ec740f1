from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.ave_splits import SPLITS
from mettle_cache.errors import DatasetError

ORDERS = {"train": [2, 0, 1], "val": [3], "test": [5, 4]}


def _write_orders(root: Path, orders: dict[str, list[int]] = ORDERS) -> None:
    for split, order in orders.items():
        with h5py.File(root / f"{split}_order.h5", "w") as file:
            file["order"] = np.asarray(order, np.int64)


def _remove_sets(root: Path) -> None:
    for split in SPLITS:
        (root / f"{split}Set.txt").unlink()


def test_order_files_alone_serve_and_give_the_same_samples(annotate) -> None:
    root = annotate()
    from_sets = open_dataset("ave", root).samples
    _remove_sets(root)
    _write_orders(root)
    assert open_dataset("ave", root).samples.equals(from_sets)
    assert from_sets["split"].to_pylist() == ["train"] * 3 + ["val"] + ["test"] * 2


def test_both_sources_that_agree_line_by_line(annotate) -> None:
    root = annotate()
    _write_orders(root, {"train": [0, 1, 2], "val": [3], "test": [4, 5]})
    assert open_dataset("ave", root).samples.num_rows == 6


@pytest.mark.parametrize(
    ("orders", "what"),
    [
        (ORDERS, r"trainSet.txt and .*train_order.h5 disagree: entry 0 is row 0 and row 2"),
        ({"val": [3, 4]}, r"valSet.txt and .*val_order.h5 disagree: 1 rows and 2 rows"),
    ],
)
def test_both_sources_that_disagree(annotate, orders, what) -> None:
    root = annotate()
    _write_orders(root, orders)
    with pytest.raises(DatasetError, match=what):
        open_dataset("ave", root)


def test_a_split_with_neither_file_says_which_would_serve(annotate) -> None:
    root = annotate()
    (root / "valSet.txt").unlink()
    with pytest.raises(DatasetError, match=r"which rows are val: there is no valSet.txt or val_order.h5") as caught:
        open_dataset("ave", root)
    assert "either file of a split serves" in str(caught.value.hint)


def test_a_row_in_two_splits_is_refused(annotate, rows) -> None:
    root = annotate(splits={"train": rows[:4], "val": rows[3:4], "test": rows[4:]})
    with pytest.raises(DatasetError, match=r"row 3 \(dddddddddd2\) is both in train and in val"):
        open_dataset("ave", root)


def test_rows_in_no_split_are_left_out_and_the_user_is_told(annotate, rows) -> None:
    dataset = open_dataset("ave", annotate(splits={"train": rows[:1], "val": rows[3:4], "test": rows[5:]}))
    assert dataset.samples["row"].to_pylist() == [0, 3, 5]
    assert [clip.id for clip in dataset.clips] == ["-aaaaaaaaaa", "dddddddddd2", "eeeeeeeeee3"]
    assert dataset.notes == ("3 of 6 rows of Annotations.txt are in no split and are left out",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Bark&eeeeeeeeee3&good&5&9\n", r"valSet.txt:1: no such row in Annotations.txt"),
        ("Banjo&dddddddddd2&good&3&9\nBanjo&dddddddddd2&good&3&9\n", r"valSet.txt:2: the same sample as in line 1"),
        ("", r"valSet.txt: names no row of Annotations.txt"),
        ("nonsense\n", r"valSet.txt:1: 1 fields"),
    ],
)
def test_a_bad_set_file_is_reported_with_its_line(annotate, text, what) -> None:
    root = annotate()
    (root / "valSet.txt").write_text(text)
    with pytest.raises(DatasetError, match=what):
        open_dataset("ave", root)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (np.array([3, 3]), "of 2 row numbers only 1 are distinct and from 0 to 5"),
        (np.array([-1]), "of 1 row numbers only 0 are distinct"),
        (np.array([6]), "of 1 row numbers only 0 are distinct"),
        (np.array([], np.int64), "lists no rows"),
        (np.arange(7), "'order' lists 7 rows, Annotations.txt has 6"),
        (np.array([1.0]), "'order' holds float64 of shape"),
        (np.array([[1]]), r"'order' holds int64 of shape \(1, 1\)"),
    ],
)
def test_a_bad_order_file_is_named(annotate, content, what) -> None:
    root = annotate()
    _remove_sets(root)
    _write_orders(root)
    with h5py.File(root / "val_order.h5", "w") as file:
        file["order"] = content
    with pytest.raises(DatasetError, match=f"val_order.h5: {what}"):
        open_dataset("ave", root)


def test_an_order_file_without_order_or_that_is_no_hdf5(annotate) -> None:
    root = annotate()
    (root / "valSet.txt").unlink()
    with h5py.File(root / "val_order.h5", "w") as file:
        file["other"] = np.arange(1)
    with pytest.raises(DatasetError, match=r"val_order.h5 has no data set named 'order'"):
        open_dataset("ave", root)
    (root / "val_order.h5").write_bytes(b"not HDF5")
    with pytest.raises(DatasetError, match=r"val_order.h5 cannot be read as HDF5"):
        open_dataset("ave", root)


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/order"), h5py.SoftLink("/elsewhere")])
def test_an_order_file_that_points_elsewhere_is_refused(annotate, link) -> None:
    root = annotate()
    (root / "valSet.txt").unlink()
    with h5py.File(root / "other.h5", "w") as file:
        file["order"] = np.arange(1)
    with h5py.File(root / "val_order.h5", "w") as file:
        file["order"] = link
    with pytest.raises(DatasetError, match=r"val_order.h5 has no data set named 'order'"):
        open_dataset("ave", root)
