"""Events and their scores read back from the tables that tasks write, earlier versions' among them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.figures.compute.events import BOTH, read_events, segment_classes
from mettle_cache.tasks.prediction_columns import score_lists

RNG = np.random.default_rng(5)


def test_events_of_one_class_a_segment():
    target, prediction = RNG.integers(0, 4, (2, 3, 5))
    table = pa.table(
        {
            "row": np.repeat([4, 9, 2], 5),
            "clip": np.repeat(["a", "b", "a"], 5),
            "segment": np.tile(np.arange(5, dtype=np.int32), 3),
            "target": target.ravel().astype(np.int32),
            "prediction": prediction.ravel().astype(np.int32),
        }
    ).replace_schema_metadata({"categories": json.dumps(["x", "y", "z", "background"])})
    assert read_events(table).scores == {}  # as earlier versions wrote it
    scores = RNG.random((3, 5, 4), dtype=np.float32)
    events = read_events(table.append_column("scores", score_lists(scores)))
    np.testing.assert_array_equal(events.scores[BOTH], scores[..., :3].transpose(0, 2, 1))
    assert (events.categories, events.samples) == (("x", "y", "z"), ("a", "b", "a"))
    for active, labels in ((events.annotated[BOTH], target), (events.predicted[BOTH], prediction)):
        np.testing.assert_array_equal(active, labels[:, None] == np.arange(3)[:, None])
        # background is no class
        np.testing.assert_array_equal(segment_classes(active), np.where(labels == 3, -1, labels))


def test_events_of_several_classes_a_segment_and_modality():
    active = RNG.random((2, 2, 3, 4)) > 0.5  # samples, modalities, categories, segments
    cells = [
        np.flatnonzero(active[sample, modality, :, segment]).tolist()
        for sample in range(2)
        for modality in range(2)
        for segment in range(4)
    ]
    table = pa.table(
        {
            "filename": np.repeat(["v1", "v2"], 8),
            "modality": np.tile(np.repeat(["audio", "visual"], 4), 2),
            "segment": np.tile(np.arange(4, dtype=np.int32), 4),
            "target": cells,
            "prediction": cells[::-1],
        }
    ).replace_schema_metadata({"categories": json.dumps(["x", "y", "z"])})
    assert read_events(table).samples == ("v1", "v2")  # as earlier versions wrote it
    scores = RNG.random((2, 2, 4, 3), dtype=np.float32)
    table = table.append_column("clip", pa.array(np.repeat(["c1", "c2"], 8)))
    events = read_events(table.append_column("scores", score_lists(scores)))
    assert events.samples == ("c1", "c2")
    np.testing.assert_array_equal(events.scores["visual"], scores[:, 1].transpose(0, 2, 1))
    assert list(events.annotated) == ["audio", "visual"]
    for place, modality in enumerate(events.annotated):
        np.testing.assert_array_equal(events.annotated[modality], active[:, place])
    np.testing.assert_array_equal(events.predicted["audio"][0], active[1, 1, :, ::-1])
    counts = active[:, 0].sum(axis=1)
    classes = segment_classes(active[:, 0])
    assert ((classes == -1) == (counts == 0)).all()
    assert ((classes == -2) == (counts > 1)).all()


def test_a_table_without_segments_is_refused():
    with pytest.raises(UsageError, match="the task's predictions are no events in segments"):
        read_events(pa.table({"clip": ["a"], "iou": [0.5]}))
