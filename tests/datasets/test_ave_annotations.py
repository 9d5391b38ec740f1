"""What AVE's annotation files may say, and everything that is wrong with them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.ave_annotations import CATEGORIES, SPLITS, AnnotatedRow, read_categories, read_rows
from mettle_cache.datasets.textfile import Problems
from mettle_cache.errors import DatasetError

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
GOOD = "Bark&abcdefghijk&good&1&4"


def _rows(text: str | bytes, categories: Sequence[str] = CATEGORIES) -> tuple[list[AnnotatedRow], Problems]:
    problems = Problems()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Annotations.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_rows(path, categories, problems), problems


_ids = st.text("abcXYZ019-_", min_size=1, max_size=64)
_events = st.tuples(st.sampled_from(CATEGORIES), _ids, st.integers(0, 10), st.integers(0, 10)).map(
    lambda event: AnnotatedRow(event[0], event[1], min(event[2:]), max(event[2:]))
)


@given(st.lists(_events, min_size=1, max_size=20, unique=True), st.booleans(), st.booleans())
def test_rows_come_back_as_written_with_and_without_a_header(
    rows: list[AnnotatedRow], header: bool, trailing: bool
) -> None:
    lines = [f"{row.category}&{row.clip}&good&{row.start}&{row.end}" for row in rows]
    text = "\n".join(([HEADER] if header else []) + lines) + ("\n" if trailing else "")
    read, problems = _rows(text)
    assert read == rows
    assert problems.count == 0


@given(st.text(alphabet="&Bark0123456789abc-_./\n\0é", max_size=120))
def test_any_text_gives_rows_within_bounds_or_problems(text: str) -> None:
    rows, problems = _rows(text)
    assert rows or problems.count
    for row in rows:
        assert 0 <= row.start <= row.end <= 10
        assert "/" not in row.clip
        assert "." not in row.clip


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Bark&abcdefghijk&good&1", "4 fields separated by '&', not 5"),
        ("Bark&abcdefghijk&good&1&4&5", "6 fields separated by '&', not 5"),
        ("just words", "1 fields separated by '&', not 5"),
        ("Bark&abcdefghijk&good&1.5&4", "times '1.5' and '4' are not whole seconds from 0 to 10"),
        ("Bark&abcdefghijk&good&-1&4", "times '-1' and '4' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&11", "times '1' and '11' are not whole seconds"),
        ("Bark&abcdefghijk&good&&4", "times '' and '4' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&٤", r"times '1' and '\u0664' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&" + "9" * 4000, "are not whole seconds"),
        ("Bark&abcdefghijk&good&5&4", "the event starts at 5 s and ends at 4 s"),
        ("Bark&../../secret&good&1&4", "the id '../../secret' is not 1 to 64 letters, digits, - or _"),
        ("Bark&/etc/passwd&good&1&4", "the id '/etc/passwd' is not"),
        ("Bark&abc\0def&good&1&4", r"the id 'abc\x00def' is not"),
        ("Bark&&good&1&4", "the id '' is not"),
        (f"Bark&{'x' * 65}&good&1&4", "is not 1 to 64 letters"),
        ("Bark&аbcdefghijk&good&1&4", r"the id '\u0430bcdefghijk' is not"),
        ("Barking&abcdefghijk&good&1&4", "unknown category 'Barking'"),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(line: str, what: str) -> None:
    _, problems = _rows(f"{HEADER}\n{GOOD}\n{line}\n")
    assert problems.count == 1
    place, _, reported = problems.listed[0].partition("Annotations.txt:3: ")
    assert place != problems.listed[0]
    assert what in reported
    assert len(reported) < 300


def test_a_repeated_sample_names_the_line_it_repeats() -> None:
    _, problems = _rows(f"{GOOD}\nBark&other&good&1&4\n{GOOD}\n")
    assert problems.count == 1
    assert problems.listed[0].endswith("Annotations.txt:3: the same sample as in line 1")


def test_no_rows_at_all_is_a_problem() -> None:
    _, problems = _rows(HEADER)
    assert problems.listed[0].endswith("Annotations.txt: holds no rows")


def test_every_problem_is_found_not_only_the_first() -> None:
    _, problems = _rows(b"Bark&a/b&good&1&4\n\xff\xff\nBark&abc&good&7&4\n" + GOOD.encode())
    assert [problem.split("Annotations.txt:")[1][0] for problem in sorted(problems.listed)] == ["1", "2", "3"]


def test_categories_are_the_published_ones_without_a_file(tmp_path: Path) -> None:
    assert read_categories(tmp_path, Problems()) == CATEGORIES
    assert len(set(CATEGORIES)) == 28


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Bark\nCat\nBark\n", "categories.txt:3: 'Bark' is listed twice"),
        ("Bark\nA&B\n", "categories.txt:2: 'A&B' is not a category name"),
        ("Bark\nA\x1b[2J\n", r"categories.txt:2: 'A\x1b[2J' is not a category name"),
        ("\n", "categories.txt: lists no categories"),
    ],
)
def test_a_bad_category_list_is_reported(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "categories.txt").write_text(text)
    problems = Problems()
    read_categories(tmp_path, problems)
    assert problems.listed[0].endswith(what)


def test_categories_come_from_the_file_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "categories.txt").write_text("Zebra\nApple, red\n")
    assert read_categories(tmp_path, Problems()) == ("Zebra", "Apple, red")


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


def test_an_order_file_of_few_rows_in_one_chunk_of_gigabytes_is_refused(annotate) -> None:
    root = annotate()
    (root / "valSet.txt").unlink()
    with h5py.File(root / "val_order.h5", "w") as file:
        file.create_dataset("order", shape=(1,), maxshape=(None,), chunks=(1 << 28,), dtype=np.int64, compression=9)
    with pytest.raises(DatasetError, match=r"val_order.h5: 'order' is stored in chunks of 268435456 rows for 1"):
        open_dataset("ave", root)
