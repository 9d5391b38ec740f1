import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.decoders.han import HAN, HANOptions
from mettle_cache.decoders.mgn import MGN, MGNOptions
from mettle_cache.decoders.mmil import Smoothing
from mettle_cache.decoders.mmpyr import MMPyramid, MMPyrOptions
from mettle_cache.errors import DatasetError, RunError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avvp import Parsing, parsing_scores
from mettle_cache.tasks.avvp.head import ParsingHeadOptions
from mettle_cache.tasks.avvp.task import AvvpTask
from mettle_cache.tokens import FLOATS, LayerTokens

LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=1, grid=(2, 2), tokens=4, width=8 * stage)
    for modality in ("visual", "audio")
    for stage in (1, 2)
)
ROWS = [
    {"split": "train", "labels": ["Dog", "Car"]},
    {"split": "val", "labels": ["Dog"], "audio": [("Dog", 0, 10)], "visual": [("Dog", 2, 5), ("Dog", 7, 9)]},
    {"split": "test", "labels": ["Car"], "audio": [("Car", 3, 4)], "visual": []},
    {"split": "test", "labels": ["Cat"], "audio": [], "visual": []},
]
VOCABULARY = {"categories": ["Car", "Cat", "Dog"], "dense_annotations": ["AVVP_eval_audio.csv: SHA-256 0"]}


def make_samples(rows=ROWS, motion=None):
    columns = {
        "row": list(range(len(rows))),
        "clip": [f"clip{index}" for index in range(len(rows))],
        "split": [row["split"] for row in rows],
        "filename": [f"clip{index}_0_10" for index in range(len(rows))],
        "labels": [row["labels"] for row in rows],
    }
    for modality in ("audio", "visual"):
        for place, part in enumerate(("labels", "starts", "ends")):
            columns[f"{modality}_{part}"] = [
                [event[place] for event in row[modality]] if modality in row else None for row in rows
            ]
    table = pa.table(columns, schema=AvvpTask.sample_schema)
    return table if motion is None else table.append_column("motion", pa.array(motion, pa.binary()))


def make(options=None, samples=None, vocabulary=VOCABULARY, layers=LAYERS):
    return AvvpTask(
        layers,
        samples=make_samples() if samples is None else samples,
        vocabulary=vocabulary,
        segments=10,
        method=MethodChoice("lcd", LCDOptions(dim=16)),
        options=options or ParsingHeadOptions(),
    )


def tokens(batch=2):
    generator = torch.Generator().manual_seed(0)
    return {s.name: LayerTokens(torch.randn(batch, 10, s.tokens, s.width, generator=generator), FLOATS) for s in LAYERS}


def features():
    return np.random.default_rng(0).normal(size=(len(ROWS), 10, 512)).astype("<f2")


def test_targets_are_weak_labels_of_rows_by_position():
    targets = make().targets([2, 0])
    assert targets.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    assert targets.dtype == torch.float32


def test_events_of_both_modalities_are_painted_apart():
    task = make()
    audio, visual = task.annotation.audio, task.annotation.visual
    assert audio[1].astype(int).tolist() == [[0] * 10, [0] * 10, [1] * 10]
    assert visual[1, 2].astype(int).tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 1, 0]
    assert audio[2].sum() == audio[2, 0, 3] == 1
    assert not audio[[0, 3]].any()
    assert not visual[[0, 2, 3]].any()


def test_default_is_the_decoder_of_the_paper_s_row():
    decoder = make().build_model().decoder
    assert isinstance(decoder, MMPyramid)
    assert (decoder.motion, decoder.smoothing) == (None, Smoothing(0.0, 0.1))
    assert len(decoder.levels) == 1


def test_every_head_option_reaches_the_decoder():
    sizes = MMPyrOptions(ffn=24, levels=2, heads=4, dropout=0.5)
    options = ParsingHeadOptions(motion=True, smoothing_audio=0.2, smoothing_visual=0.3, mmpyr=sizes)
    decoder = make(options, make_samples(motion=[x.tobytes() for x in features()])).build_model().decoder
    layer = decoder.levels[1].cross
    assert (decoder.smoothing, decoder.motion is not None) == (Smoothing(0.2, 0.3), True)
    assert (decoder.levels[1].reach, layer.attention.num_heads) == (2, 4)
    assert (layer.ffn[0].out_features, layer.dropout.p) == (24, 0.5)

    han = make(ParsingHeadOptions(decoder="han", han=HANOptions(ffn=20, heads=2, dropout=0.3))).build_model().decoder
    assert isinstance(han, HAN)
    assert (han.layer.ffn[0].out_features, han.layer.own.num_heads, han.layer.dropout.p) == (20, 2, 0.3)

    switches = MGNOptions(drop_path=0.4, temporal_gate=False, hard=False)
    mgn = make(ParsingHeadOptions(decoder="mgn", motion=False, mgn=switches)).build_model().decoder
    assert isinstance(mgn, MGN)
    assert (mgn.gate, mgn.motion, mgn.hybrid.assign.hard) == (None, None, False)
    assert mgn.audio_blocks[0].drop_path == 0.4
    assert mgn.hybrid.mix[0].in_features == 10


@pytest.mark.parametrize("decoder", ["mmpyr", "han", "mgn"])
@pytest.mark.parametrize("motion", [True, False])
def test_outputs_losses_and_predictions_fit_together(decoder, motion):
    stored = make_samples(motion=[x.tobytes() for x in features()])
    task = make(ParsingHeadOptions(decoder=decoder, motion=motion), stored)
    model = task.build_model().eval()
    given = task.inputs([1, 2], split_rows=[1, 2], rng=None)
    assert set(given.tensors) == ({"motion"} if motion else set())
    outputs = model(tokens(), **given.tensors)
    terms = task.loss(model, outputs, task.targets([1, 2]))
    assert all(term.ndim == 0 and term.requires_grad for term in terms.values())
    predictions = task.predict({name: value.detach() for name, value in outputs.items()}, [1, 2])
    assert {name: (value.shape, value.dtype) for name, value in predictions.items()} == {
        **{name: ((2, 3, 10), np.dtype(bool)) for name in ("audio", "visual")},
        **{f"{name}_probabilities": ((2, 3, 10), np.dtype(np.float32)) for name in ("audio", "visual")},
        "video_probabilities": ((2, 3), np.dtype(np.float32)),
    }
    for name in ("audio", "visual"):
        expected = outputs[name].detach().permute(0, 2, 1).numpy()
        assert np.array_equal(predictions[f"{name}_probabilities"], expected)
        decided = (expected >= 0.5) & (predictions["video_probabilities"] >= 0.5)[..., None]
        assert np.array_equal(predictions[name], decided)


def outputs_of(video, audio, visual):
    frames = [torch.tensor(level).expand(1, 10, 3) for level in (audio, visual)]
    return {"video": torch.tensor([video]), "audio": frames[0], "visual": frames[1]}


def test_predictions_need_the_video_and_the_segment_unless_told_otherwise():
    outputs = outputs_of([0.5, 0.4, 0.9], [0.9, 0.9, 0.4], [0.5, 0.9, 0.9])
    masked = make().predict(outputs, [2])
    assert [masked[name][0].all(axis=1).tolist() for name in ("audio", "visual")] == [
        [True, False, False],
        [True, False, True],
    ]
    free = make(ParsingHeadOptions(video_mask=False)).predict(outputs, [2])
    assert free["audio"][0].all(axis=1).tolist() == [True, True, False]


def test_scores_floors_and_details_of_a_worked_case():
    task = make()
    truth = {"audio": task.annotation.audio[1:], "visual": task.annotation.visual[1:]}
    assert set(task.score(truth, [1, 2, 3]).values()) == {100.0}
    wrong = {**truth, "visual": np.zeros_like(truth["visual"])}
    scores = task.score(wrong, [1, 2, 3])
    # two of three videos show nothing; the val video's picture is missed; what is heard is right
    assert (scores["segment_a"], scores["event_v"]) == (100.0, pytest.approx(200 / 3))
    assert scores["segment_event_av"] == pytest.approx(100 * (2 * 10 / (2 * 10 + 5) + 2) / 3)
    assert task.floors([1, 2, 3]) == {"nothing predicted": pytest.approx(100 * (1 / 3 + 2 / 3 + 2 / 3) / 3)}
    assert task.details(wrong, [1, 2, 3]) == {
        "segment_f_by_category": {"a": {"Car": 100.0, "Dog": 100.0}, "v": {"Dog": 0.0}, "av": {"Dog": 0.0}},
        "dense_annotations": ["AVVP_eval_audio.csv: SHA-256 0"],
    }


def test_scores_are_those_of_the_metric_on_any_predictions():
    task, random = make(), np.random.default_rng(2).random((2, 3, 3, 10)) < 0.4
    truth = Parsing(task.annotation.audio[1:], task.annotation.visual[1:])
    ours = task.score({"audio": random[0], "visual": random[1]}, [1, 2, 3])
    assert ours == parsing_scores(Parsing(*random), truth)
    assert task.metric in ours
    assert set(AvvpTask.published[0].scores) == set(ours)


def test_every_score_is_the_mean_of_what_samples_score():
    """The average of the ten too, which the paper's ablations print."""
    task, random = make(), np.random.default_rng(3).random((2, 3, 3, 10)) < 0.4
    predictions = {"audio": random[0], "visual": random[1]}
    terms = task.sample_terms(predictions, [1, 2, 3])
    assert {name: pytest.approx(values.mean()) for name, values in terms.items()} == task.score(predictions, [1, 2, 3])
    np.testing.assert_array_equal(terms[task.metric], task.sample_scores(predictions, [1, 2, 3]))


def test_samples_with_weak_labels_only_are_refused_before_a_pass_is_over():
    with pytest.raises(
        UsageError, match=r"sample 0 \(clip0_0_10, train\) has weak labels only.*\n  next: val and test"
    ):
        make().predict(outputs_of([0.5] * 3, [0.5] * 3, [0.5] * 3), [0])


def test_a_diverged_model_gives_no_number():
    with pytest.raises(RunError, match="not finite"):
        make().predict(outputs_of([float("nan")] * 3, [0.5] * 3, [0.5] * 3), [1])


def test_prediction_table_has_a_row_for_each_modality_and_second():
    task = make()
    heard, seen = np.random.default_rng(4).random((2, 2, 3, 10), dtype=np.float32)
    predictions = {
        "audio": task.annotation.visual[[2, 1]],
        "visual": task.annotation.audio[[2, 1]],
        "audio_probabilities": heard,
        "visual_probabilities": seen,
        "video_probabilities": heard.max(-1),
    }
    table = task.prediction_table(predictions, [2, 1])
    rows = table.to_pylist()
    assert len(rows) == 2 * 2 * 10
    assert rows[3] == {
        "row": 2,
        "clip": "clip2",
        "filename": "clip2_0_10",
        "modality": "audio",
        "segment": 3,
        "target": [0],
        "prediction": [],
        "target_names": ["Car"],
        "prediction_names": [],
        "scores": heard[0, :, 3].tolist(),
        "video_scores": heard[0].max(-1).tolist(),
    }
    assert rows[10]["modality"] == "visual"
    assert rows[37]["scores"] == seen[1, :, 7].tolist()
    assert (rows[37]["target_names"], rows[37]["prediction_names"]) == (["Dog"], ["Dog"])
    assert [row["target"] for row in rows[30:]] == [[], [], [2], [2], [2], [], [], [2], [2], []]
    assert all(row["prediction"] == [2] for row in rows[30:])
    assert json.loads(table.schema.metadata[b"categories"]) == ["Car", "Cat", "Dog"]


def test_motion_features_come_with_their_rows():
    stored = features()
    task = make(ParsingHeadOptions(decoder="mgn"), make_samples(motion=[x.tobytes() for x in stored]))
    given = task.inputs([3, 1, 3], split_rows=[0, 1, 2, 3], rng=None).tensors["motion"]
    np.testing.assert_array_equal(given.numpy(), stored[[3, 1, 3]].astype(np.float32))


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (None, "the store holds no R\\(2\\+1\\)D features, which this head reads"),
        ([b"\0" * 10240, None, None, b"\0" * 10240], "no R\\(2\\+1\\)D features of 2 clips: clip1, clip2"),
        ([b"\0" * 10240] * 3 + [b"\0" * 10], r"are not all of shape \(10, 512\)"),
    ],
)
def test_a_head_that_wants_motion_features_says_which_are_missing_and_what_to_do(motion, message):
    with pytest.raises(UsageError, match=rf"(?s){message}.*next: put LLP's feats.*--set head.motion=false"):
        make(ParsingHeadOptions(decoder="mgn"), make_samples(motion=motion))


def test_a_head_with_motion_features_is_built_without_samples():
    empty = AvvpTask.sample_schema.empty_table()
    assert make(ParsingHeadOptions(decoder="mgn"), empty).build_model().decoder.motion is not None


@pytest.mark.parametrize(
    ("rows", "vocabulary", "message"),
    [
        (ROWS, {}, "names no categories"),
        (ROWS, {"categories": ["Dog"]}, "sample 0: label 'Car' is not one of the 1 categories"),
        ([{**ROWS[1], "visual": [("Dog", 3, 12)]}], VOCABULARY, "sample 0: the event from 3 to 12 s"),
    ],
)
def test_stores_that_cannot_be_used(rows, vocabulary, message):
    with pytest.raises(DatasetError, match=message):
        make(samples=make_samples(rows), vocabulary=vocabulary)


def test_scores_of_samples_average_to_the_metric_and_changes_count_segments():
    task, rng, rows = make(), np.random.default_rng(1), [1, 2, 3]
    ours, others = ({m: rng.random((3, 3, 10)) < 0.3 for m in ("audio", "visual")} for _ in range(2))
    scores = task.sample_scores(ours, rows)
    assert scores.mean() == pytest.approx(task.score(ours, rows)["segment_type_av"])
    assert scores[1] == pytest.approx(task.score({m: x[1:2] for m, x in ours.items()}, [2])["segment_type_av"])
    changed = [
        any(ours[modality][video, :, second] != others[modality][video, :, second])
        for modality in ours
        for video in range(3)
        for second in range(10)
    ]
    assert task.changed_share(ours, others) == pytest.approx(np.mean(changed))
    assert task.changed_share(ours, ours) == 0
