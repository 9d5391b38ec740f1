from __future__ import annotations

from pathlib import Path

import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.ave import SAMPLE_SCHEMA
from mettle_cache.datasets.ave_annotations import CATEGORIES
from mettle_cache.errors import DatasetError


@pytest.mark.parametrize("header", [True, False])
def test_rows_are_samples_and_ids_are_clips(annotate, header) -> None:
    dataset = open_dataset("ave", annotate(header=header))
    assert dataset.samples.schema == SAMPLE_SCHEMA
    assert dataset.samples.slice(3, 2).to_pylist() == [
        {"row": 3, "clip": "dddddddddd2", "split": "val", "category": "Banjo", "start": 3, "end": 9},
        {"row": 4, "clip": "dddddddddd2", "split": "test", "category": "Mandolin", "start": 3, "end": 9},
    ]
    ids = [clip.id for clip in dataset.clips]
    assert ids == ["-aaaaaaaaaa", "_bbbbbbbbbb", "cccccccccc1", "dddddddddd2", "eeeeeeeeee3"]
    assert dataset.segments == 10
    assert dataset.vocabulary == {"categories": list(CATEGORIES)}
    assert dataset.notes == ()


def test_other_categories_need_a_list_of_them(annotate) -> None:
    rows = ["Red disc, tone&aaaa&good&0&3", "Blue disc&bbbb&good&1&3", "Blue disc&cccc&good&1&3"]
    root = annotate(rows, splits={"train": rows[:1], "val": rows[1:2], "test": rows[2:]})
    with pytest.raises(DatasetError, match=r"Annotations.txt:2: unknown category 'Red disc, tone'") as caught:
        open_dataset("ave", root)
    assert "list them in categories.txt" in str(caught.value.hint)

    (root / "categories.txt").write_text("Blue disc\nRed disc, tone\n")
    assert open_dataset("ave", root).vocabulary == {"categories": ["Blue disc", "Red disc, tone"]}


def test_a_category_that_the_list_lacks_is_named_without_advice_to_add_a_list(annotate) -> None:
    with pytest.raises(DatasetError, match=r"unknown category 'Frying \(food\)'") as caught:
        open_dataset(
            "ave", annotate(categories=["Church bell", "Male speech, man speaking", "Banjo", "Mandolin", "Bark"])
        )
    assert caught.value.hint is None


def test_problems_of_several_lines_and_files_come_together(annotate, rows) -> None:
    root = annotate([*rows, "Bark&../x&good&0&3", "Bark&ok&good&9&3", "Owl&ok&good&0&3"], categories=["Bark", "Bark"])
    with pytest.raises(DatasetError) as caught:
        open_dataset("ave", root)
    for what in ("categories.txt:2:", "Annotations.txt:8:", "Annotations.txt:9:", "Annotations.txt:10:"):
        assert what in caught.value.message


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no Annotations.txt in") as caught:
        open_dataset("ave", tmp_path)
    assert "give the folder that holds Annotations.txt" in str(caught.value.hint)


def test_the_folder_above_gets_the_right_one_as_a_hint(annotate) -> None:
    root = annotate()
    with pytest.raises(DatasetError, match=r"there is no Annotations.txt") as caught:
        open_dataset("ave", root.parent)
    assert caught.value.hint == f"--root {root}"


def test_a_folder_named_annotations_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "Annotations.txt").mkdir()
    with pytest.raises(DatasetError, match=r"Annotations.txt is not a file"):
        open_dataset("ave", tmp_path)


def test_a_file_where_a_media_folder_should_be(annotate) -> None:
    root = annotate()
    (root / "frames").write_text("")
    with pytest.raises(DatasetError, match=r"frames is a file where a folder of media should be"):
        open_dataset("ave", root)
