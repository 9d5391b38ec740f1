"""The LLP annotation files that were published, both versions, where they are at hand."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mettle_cache.datasets import MediaDataset, open_dataset
from mettle_cache.datasets.llp_annotations import CATEGORIES

_REPOSITORY = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("METTLE_ANNOTATIONS", _REPOSITORY.parent / "shared" / "annotations"))

pytestmark = pytest.mark.skipif(
    not (PUBLISHED / "llp" / "AVVP_train.csv").exists(),
    reason="the published annotations are not here; METTLE_ANNOTATIONS names their folder",
)


@pytest.fixture(scope="module")
def fixed() -> MediaDataset:
    return open_dataset("llp", PUBLISHED / "llp")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> MediaDataset:
    root = shutil.copytree(PUBLISHED / "llp", tmp_path_factory.mktemp("llp") / "AVVP", copy_function=shutil.copyfile)
    (root / "AVVP_eval_audio.csv").unlink()
    shutil.copyfile(PUBLISHED / "llp_as_shipped" / "AVVP_eval_audio.csv", root / "AVVP_eval_audio.csv")
    return open_dataset("llp", root)


def test_counts_of_videos_labels_and_events(fixed: MediaDataset) -> None:
    samples = fixed.samples.to_pylist()
    assert Counter(row["split"] for row in samples) == {"train": 10000, "val": 649, "test": 1200}
    assert len({row["clip"] for row in samples}) == len(fixed.clips) == 11849
    train = [label for row in samples if row["split"] == "train" for label in row["labels"]]
    assert (Counter(train)["Speech"], Counter(train)["Telephone_bell_ringing"]) == (4988, 99)
    assert round(len(train) / 10000, 2) == 1.61
    assert set(train) == set(CATEGORIES)
    events = {name: sum(len(row[f"{name}_labels"] or ()) for row in samples) for name in ("audio", "visual")}
    assert events == {"audio": 4131 - 14 - 5, "visual": 2495 - 11}
    assert all((row["audio_labels"] is None) == (row["split"] == "train") for row in samples)


def test_dense_labels_differ_from_weak_ones_in_as_many_videos_as_specified(fixed: MediaDataset) -> None:
    """The spec's 51 and 30, and 2 and 1 whose only row of a label is one of those that add nothing."""
    differing = Counter(
        row["split"]
        for row in fixed.samples.to_pylist()
        if row["split"] != "train" and {*row["audio_labels"], *row["visual_labels"]} != set(row["labels"])
    )
    assert differing == {"test": 51 + 2, "val": 30 + 1}


def test_what_is_left_out_is_told(fixed: MediaDataset) -> None:
    assert fixed.notes[0].startswith("AVVP_eval_audio.csv: fixed, of AVVP-ECCV20, SHA-256 d5435664")
    assert fixed.notes[2:] == (
        "14 rows of AVVP_eval_audio.csv name no val or test video and are left out",
        "5 rows of AVVP_eval_audio.csv end where they start, or before, and add nothing",
        "11 rows of AVVP_eval_visual.csv name no val or test video and are left out",
    )


def test_the_shipped_version_loses_three_rows_of_two_videos(fixed: MediaDataset, shipped: MediaDataset) -> None:
    assert "as shipped by later projects, 3 rows broken" in shipped.notes[0]
    assert shipped.notes[2].startswith("17 rows of AVVP_eval_audio.csv")
    pairs = zip(fixed.samples.to_pylist(), shipped.samples.to_pylist(), strict=True)
    lost = {
        ours["filename"]: len(ours["audio_labels"]) - len(theirs["audio_labels"])
        for ours, theirs in pairs
        if ours != theirs
    }
    assert lost == {"JfZEqeLZqWk_30_40": 2, "KvIjsmANkxI_10_20": 1}
