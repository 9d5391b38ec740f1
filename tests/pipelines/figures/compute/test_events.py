"""Events read back from the tables that tasks write, and scores against their definitions."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mettle_cache.errors import UsageError
from mettle_cache.metrics.avel import predict_event_and_class
from mettle_cache.pipelines.figures.compute.events import BOTH, event_scores, read_events, segment_classes

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
    events = read_events(table)
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
    events = read_events(table)
    assert events.samples == ("v1", "v2")
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


def test_scores_of_every_kind_of_head():
    event, category, segments = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 3)), RNG.normal(size=(2, 4, 4))
    scores = event_scores({"event": event, "category": category})[BOTH]
    softmax = np.exp(category) / np.exp(category).sum(-1, keepdims=True)
    relative = softmax / softmax.max(-1, keepdims=True)
    np.testing.assert_allclose(scores, np.einsum("bc,bt->bct", relative, 1 / (1 + np.exp(-event))))
    # above a half in the winner alone is what the head decides
    labels = predict_event_and_class(event, category)
    np.testing.assert_array_equal(labels < 3, (scores.max(1) > 0.5))
    scores = event_scores({"segments": segments})[BOTH]
    softmax = np.exp(segments) / np.exp(segments).sum(-1, keepdims=True)
    np.testing.assert_allclose(scores, np.moveaxis(softmax[..., :3], 1, 2))
    heard, seen = RNG.random((2, 2, 4, 3))
    scores = event_scores({"audio": heard, "visual": seen, "video": RNG.random((2, 3))})
    np.testing.assert_array_equal(scores["visual"], np.moveaxis(seen, 1, 2))
    assert event_scores({"logits": event}) == {}
