"""Single samples and classes, from prediction tables: against counts by hand and scikit-learn."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mettle_cache.metrics.avel import category_accuracy
from mettle_cache.metrics.avvp import Parsing, category_scores
from mettle_cache.pipelines.figures.compute.events import read_events
from mettle_cache.pipelines.page.classes import class_results
from mettle_cache.pipelines.page.clips.answers import answer_clips
from mettle_cache.pipelines.page.clips.clip_list import ClipList, stretches
from mettle_cache.pipelines.page.clips.lanes import FALSE, HIT, MISSED, lane_clips
from mettle_cache.pipelines.page.clips.masks import MaskSample, mask_clips, mask_samples
from mettle_cache.pipelines.page.clips.rows import row_clips
from mettle_cache.pipelines.page.clips.segments import segment_clips, segment_grids
from mettle_cache.pipelines.page.pictures import add_masks, add_strips, mask_of_png
from mettle_cache.pipelines.progress import Silent
from mettle_cache.tasks.avs.pictures import mask_png
from tests.pipelines.page.run_files import NAMES, avel_table, avqa_table, avs_table, avvp_table

SIDE = 16


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def painted(blocks, segments, value):
    """What blocks ``[start, end, ...]`` cover, each with ``value(block)``; None elsewhere."""
    line = [None] * segments
    for block in blocks:
        line[block[0] : block[1]] = [value(block)] * (block[1] - block[0])
    return line


def test_stretches():
    assert list(stretches([1, 1, 2, 1])) == [(0, 2, 1), (2, 3, 2), (3, 4, 1)]
    assert list(stretches([])) == []


def test_segments_keep_every_label_and_the_surest_mistake(rng):
    table, clips, terms = avel_table(rng, 8)
    target, predicted = segment_grids(table)
    told = segment_clips([table, table], [terms, None])
    scores = np.array(table["scores"].to_pylist()).reshape(8, -1, len(NAMES) + 1)
    for place, item in enumerate(told.items):
        assert painted(item["t"], item["n"], lambda block: block[2]) == target[place].tolist()
        assert painted(item["p"][1], item["n"], lambda block: block[2]) == predicted[place].tolist()
        right = painted(item["p"][0], item["n"], lambda block: bool(block[3]))
        assert right == (target[place] == predicted[place]).tolist()
        wrong = scores[place].max(-1)[target[place] != predicted[place]]
        assert item["x"][0] == (round(100 * float(wrong.max()), 1) if len(wrong) else None)
        assert item["s"] == [round(terms[place], 2), None]
    order = [told.items[place]["s"][0] for place in told.worst_first()]
    assert order == sorted(order)
    assert told.media == [[clip] for clip in clips]


def test_lanes_tell_hits_misses_and_false_alarms(rng):
    table, _, terms = avvp_table(rng, 6)
    events = read_events(table)
    for place, item in enumerate(lane_clips([table], [terms]).items):
        lanes = {(modality, category): (truth, found[0]) for modality, category, truth, found in item["l"]}
        for number, modality in enumerate(events.annotated):
            for category in range(len(NAMES)):
                truth = events.annotated[modality][place, category]
                found = events.predicted[modality][place, category]
                if not (truth.any() or found.any()):
                    assert (number, category) not in lanes
                    continue
                blocks = painted(lanes[number, category][1], item["n"], lambda block: block[2])
                states = {(True, True): HIT, (True, False): MISSED, (False, True): FALSE, (False, False): None}
                assert blocks == [states[pair] for pair in zip(truth.tolist(), found.tolist(), strict=True)]


def test_answers_keep_their_likeliest(rng):
    table, _, terms = avqa_table(rng, 5)
    told = answer_clips([table], [None])
    for place, item in enumerate(told.items):
        assert told.names[item["a"]] == table["answer"][place].as_py()
        assert item["s"] == [terms[place]]
        best = item["c"][0][0]
        assert told.names[best[0]] == table["prediction"][place].as_py()
        assert best[1] == pytest.approx(100 * max(table["scores"][place].as_py()), abs=0.051)
        assert (item["x"][0] is None) == (terms[place] == 100)


def test_masks_without_and_with_samples(rng):
    table, _, terms = avs_table(rng, 3)
    assert mask_clips([table], [None], {}).items[1]["s"] == [round(terms[1], 2)]
    samples = pa.table(
        {"row": [1, 1], "split": ["test", "val"], "clips": [["a"], ["b"]], "masks": [[b""], [b""]]}
        | {"category": ["dog", "cat"]}
    )
    assert mask_samples(samples, "test") == {1: MaskSample("dog", ["a"], [b""])}
    told = mask_clips([table], [terms], mask_samples(samples, "test"))
    assert told.groups == ["dog"]
    assert [item["g"] for item in told.items] == [[], [0], []]
    assert told.media == [[], ["a"], []]


def test_a_table_of_another_task_is_shown_as_it_is():
    table = pa.table({"clip": ["a", "b"], "species": ["wren", None], "sure": [0.123456, 1.0]})
    told = row_clips([table], [np.array([1.0, 2.0])])
    assert told.names == ["species", "sure"]
    assert [item["v"] for item in told.items] == [[["wren", "0.12"]], [["", "1.0"]]]


def test_classes_agree_with_scikit_learn(rng):
    table, _, _ = avel_table(rng, 40)
    target, predicted = (grid.ravel() for grid in segment_grids(table))
    result = class_results(table, "segments", {})
    assert result["confusion"]["counts"] == confusion_matrix(target, predicted).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(target, predicted)
    rows = np.array([row[1:] for row in result["tables"][0]["rows"]], float)
    expected = np.stack([support, np.bincount(predicted), 100 * recall, 100 * precision, 100 * f1], 1)
    assert np.allclose(rows, expected, atol=0.0051)
    named = category_accuracy(*(grid[:, None] for grid in (predicted, target)), vocabulary=NAMES)
    assert [row[3] for row in result["tables"][0]["rows"]] == [round(named[name], 2) for name in (*NAMES, "background")]


def test_classes_of_parsing_agree_with_the_metric(rng):
    table, _, _ = avvp_table(rng, 20)
    events = read_events(table)
    parsings = [Parsing(one["audio"], one["visual"]) for one in (events.predicted, events.annotated)]
    expected = category_scores(*parsings, vocabulary=events.categories)
    for shown, part in zip(class_results(table, "lanes", {})["tables"], ("a", "v", "av"), strict=True):
        assert {row[0]: row[5] for row in shown["rows"]} == {n: round(f, 2) for n, f in expected[part].items()}


def test_classes_of_answers_and_masks(rng):
    table, _, terms = avqa_table(rng, 30)
    result = class_results(table, "answers", {})
    by_type = {row[0]: row[1:] for row in result["tables"][0]["rows"]}
    assert by_type["Audio Counting"] == [15, round(float(np.mean(terms[1::2])), 2)]
    assert sum(map(sum, result["confusion"]["counts"])) == 30
    table, _, terms = avs_table(rng, 4)
    result = class_results(table, "masks", {0: MaskSample("dog", [], []), 2: MaskSample("dog", [], [])})
    assert result["tables"][0]["rows"] == [["dog", 8, round(float(np.mean(terms[[0, 2]])), 2)]]
    assert sum(result["histogram"]["counts"]) == 16


class FakeFrames:
    """Three pictures of every clip but ``gone``; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, clip):
        self.asked.append(clip)
        return [] if clip == "gone" else [np.full((30, 40, 3), 10 * n, np.uint8) for n in range(3)]


def clip_list(*names, scores=None):
    items = [
        {"id": name, "s": [score], "x": [None], "row": n}
        for n, (name, score) in enumerate(zip(names, scores, strict=True))
    ]
    return ClipList(kind="segments", items=items, media=[[name] for name in names])


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_strips_go_to_the_worst_first_and_are_shared():
    clips, frames = clip_list("good", "bad", "bad", "gone", scores=[90, 10, 20, 50]), FakeFrames()
    drawn = add_strips(clips, frames, Silent())
    assert frames.asked == ["bad", "gone", "good"]
    assert [item.get("th") for item in clips.items] == [1, 0, 0, None]
    assert decoded(clips.pictures[0]).size == (3 * 75, 56)
    assert (drawn.shown, drawn.left_out) == (4, 0)
    clips = clip_list("good", "bad", "bad", "worst", scores=[90, 10, 20, 5])
    drawn = add_strips(clips, FakeFrames(), Silent(), most=1)
    assert [item.get("th") for item in clips.items] == [None, None, None, 0]
    assert drawn.left_out == 3


def test_overlays_show_what_is_hit_missed_and_too_much():
    truth, found = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    truth[:, :8], found[:, 4:12] = True, True
    clips = clip_list("a", scores=[1])
    sample = MaskSample("dog", ["a"], [np.packbits(truth).tobytes()])
    add_masks(clips, {0: sample}, [lambda clip: found, lambda clip: None], FakeFrames(), Silent())
    assert clips.items[0]["th"] == [[0, 1, -1]]
    colours = np.asarray(decoded(clips.pictures[1]).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.NEAREST))
    assert (colours[:, :4, :3] == (0, 114, 178)).all()
    assert (colours[:, 4:8, :3] == (0, 158, 115)).all()
    assert (colours[:, 8:12, :3] == (213, 94, 0)).all()
    assert (colours[:, 12:, 3] == 0).all()


def test_a_mask_is_read_back_and_anything_else_is_none():
    mask = np.eye(8, dtype=bool)
    assert (mask_of_png(mask_png(mask)) == mask).all()
    assert mask_of_png(None) is mask_of_png(b"no picture") is None
    assert mask_of_png(mask_png(mask)[:40]) is None


def test_items_are_json(rng):
    for told in (segment_clips([avel_table(rng, 3)[0]], [None]), lane_clips([avvp_table(rng, 3)[0]], [None])):
        assert json.loads(json.dumps(told.to_json(), allow_nan=False))["kind"] == told.kind
