"""What the sheets of each task tell: which samples, their ids and scores, and whether frames are at hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.pipelines.evaluate.sample_scores import spread_over_ranks
from mettle_cache.pipelines.evaluate.sheets import SheetSamples, event_sheet, mask_sheet, question_sheet, sheet_files
from mettle_cache.tasks.prediction_columns import score_lists

RULE = "ave test: 2 of 9 samples, from best to worst by accuracy"


def sheet_of(table=None, **changes):
    fields = {"task": None, "samples": None, "rows": [4, 1], "predictions": {}, "scores": [80.0, 0.0], "rule": RULE}
    return SheetSamples(**fields | {"table": table} | changes)


def no_frames(clip):
    return None


def test_samples_are_spread_from_best_to_worst():
    scores = np.array([50.0, 0.0, 100.0, 50.0, 20.0])
    assert spread_over_ranks(scores, 3) == [2, 3, 1]
    assert spread_over_ranks(scores, 8) == [2, 0, 3, 4, 1]
    assert spread_over_ranks(scores[:1], 8) == [0]


@pytest.mark.parametrize("scored", [True, False])
def test_timelines_name_clips_scores_and_categories(scored):
    columns = {
        "clip": np.repeat(["clip-a", "clip-b"], 3),
        "segment": np.tile(np.arange(3, dtype=np.int32), 2),
        "target": np.array([0, 0, 2, 2, 1, 2], np.int32),
        "prediction": np.array([0, 2, 2, 2, 2, 2], np.int32),
    }
    if scored:
        columns |= {"scores": score_lists(np.linspace(0, 1, 18).reshape(6, 3))}
    table = pa.table(columns).replace_schema_metadata({"categories": json.dumps(["Bark", "Bell", "background"])})
    figure = event_sheet(sheet_of(table), no_frames)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["clip-a, 80 %", "clip-b, 0 %"]
    assert [[tick.get_text() for tick in axis.get_yticklabels()] for axis in figure.axes] == [["Bark"], ["Bell"]]
    assert figure.axes[-1].get_xlabel().replace("\n", " ").startswith(f"time (s) {RULE}. A bar is as high as")
    # the highest of Bark's three segments in the first clip
    assert [text.get_text() for text in figure.axes[0].texts] == ([" 0.35"] if scored else [])


class Masks:
    """A task whose truth is the left half of two frames."""

    def targets(self, rows):
        truth = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
        truth[..., :4] = True
        return truth


@pytest.mark.parametrize("frames", [no_frames, lambda clip: np.zeros((9, 9, 3), np.uint8)])
def test_overlays_name_clips_and_the_iou_of_each_frame(frames):
    samples = pa.table({"clip": ["clip-a", "clip-b"], "clips": [["a1", "a2"], ["b1", "b2", "b3"]]})
    predictions = {"masks": np.full((2, 2, 8), 0xF0, np.uint8), "iou": np.array([[1, 0.5], [0.25, 0]])}
    figure = mask_sheet(sheet_of(task=Masks(), samples=samples, predictions=predictions), frames)
    texts = [text.get_text() for text in figure.axes[0].texts]
    said = " ".join(texts[: texts.index("clip-a, 80 %")])
    assert said == RULE + ("; the frames are not at hand" if frames is no_frames else "")
    assert texts[texts.index("clip-a, 80 %") :] == [
        *("clip-a, 80 %", "IoU 100 %", "IoU 50 %"),
        *("clip-b, 0 %", "IoU 25 %", "IoU 0 %"),
    ]


def test_answers_are_the_likeliest_and_the_annotated_one():
    names = ["yes", "no", "one", "two", "left"]
    table = pa.table(
        {
            "clip": ["v1", "v2"],
            "modality": ["Audio", "Visual"],
            "kind": ["Counting", "Location"],
            "question": ["How many", "Where"],
            "answer": ["two", "left"],
            "scores": score_lists([[0.1, 0.2, 0.4, 0.3, 0.0], [0.5, 0.2, 0.15, 0.1, 0.05]]),
        }
    ).replace_schema_metadata({"answers": json.dumps(names)})
    figure = question_sheet(sheet_of(table), no_frames)
    texts = [text.get_text() for text in figure.axes[0].texts]
    first, second = texts.index("v1, Audio Counting"), texts.index("v2, Visual Location")
    assert texts[first + 1 : second] == ["How many", "one", "0.40", "two", "0.30", "no", "0.20"]
    assert texts[second + 1 :] == ["Where", "yes", "0.50", "no", "0.20", "one", "0.15", "left", "0.05"]


def test_a_task_without_a_sheet_has_no_file():
    assert list(sheet_files("species", None, None, "test", [0], {}, no_frames)) == []
