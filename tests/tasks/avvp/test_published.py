"""The scores on LLP's published annotation files, in both versions, where they are at hand."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.tasks.avvp.head import ParsingHeadOptions
from mettle_cache.tasks.avvp.task import AvvpTask

LAYERS = tuple(
    LayerSpec(modality=modality, stage=1, block=1, grid=(1, 1), tokens=1, width=8) for modality in ("visual", "audio")
)
_REPOSITORY = Path(__file__).parents[3]
PUBLISHED = Path(os.environ.get("METTLE_ANNOTATIONS", _REPOSITORY.parent / "shared" / "annotations"))

pytestmark = pytest.mark.skipif(
    not (PUBLISHED / "llp" / "AVVP_train.csv").exists(),
    reason="the published annotations are not here; METTLE_ANNOTATIONS names their folder",
)


@pytest.fixture(scope="module", params=["llp", "llp_as_shipped"])
def task(request, tmp_path_factory):
    root = shutil.copytree(PUBLISHED / "llp", tmp_path_factory.mktemp("llp") / "AVVP", copy_function=shutil.copyfile)
    (root / "AVVP_eval_audio.csv").unlink()
    shutil.copyfile(PUBLISHED / request.param / "AVVP_eval_audio.csv", root / "AVVP_eval_audio.csv")
    dataset = open_dataset("llp", root)
    return AvvpTask(
        LAYERS,
        samples=dataset.samples,
        vocabulary=dataset.vocabulary,
        segments=dataset.segments,
        method=MethodChoice("lcd", LCDOptions()),
        options=ParsingHeadOptions(),
    )


def rows_of(task, split):
    return [row for row, name in enumerate(task.samples["split"].to_pylist()) if name == split]


def truth_of(task, rows):
    return {"audio": task.annotation.audio[rows], "visual": task.annotation.visual[rows]}


@pytest.mark.parametrize("split", ["val", "test"])
def test_predicting_the_annotations_scores_a_hundred_everywhere(task, split):
    rows = rows_of(task, split)
    assert set(task.score(truth_of(task, rows), rows).values()) == {100.0}


def test_predicting_nothing_scores_the_share_of_videos_without_annotation(task):
    rows = rows_of(task, "test")
    nothing = {name: np.zeros_like(value) for name, value in truth_of(task, rows).items()}
    scores = task.score(nothing, rows)
    for level in ("segment", "event"):
        assert scores[f"{level}_a"] == pytest.approx(100 * 6 / 1200, abs=1e-9)
        assert scores[f"{level}_v"] == pytest.approx(100 * 121 / 1200, abs=1e-9)
        assert scores[f"{level}_av"] == pytest.approx(100 * 174 / 1200, abs=1e-9)
        # every test video has something to hear or to see
        assert scores[f"{level}_event_av"] == 0
    assert task.floors(rows) == {"nothing predicted": pytest.approx(100 * (6 + 121 + 174) / 3 / 1200)}


def test_the_three_rows_that_one_version_lacks_change_two_videos_at_most(task):
    """Scored against the shipped file, the fixed annotations miss 100 by no more than those two videos."""
    fixed = open_dataset("llp", PUBLISHED / "llp")
    rows = rows_of(task, "test")
    other = AvvpTask(
        LAYERS,
        samples=fixed.samples,
        vocabulary=fixed.vocabulary,
        segments=10,
        method=MethodChoice("lcd", LCDOptions()),
        options=ParsingHeadOptions(),
    )
    scores = task.score(truth_of(other, rows), rows)
    assert 100 - 100 * 2 / 1200 <= scores["segment_a"] <= 100
    assert (scores["segment_a"] == 100) == ("fixed" in task.sources[0])
    assert scores["segment_v"] == 100


def test_all_samples_have_weak_labels_and_only_train_no_dense_ones(task):
    assert task.labels.shape == (11849, 25)
    assert task.labels.any(axis=1).all()
    assert task.annotated.tolist() == [split != "train" for split in task.samples["split"].to_pylist()]
