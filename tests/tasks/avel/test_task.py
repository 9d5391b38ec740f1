import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mettle_cache.decoders.cmbs import PSPCMBS
from mettle_cache.decoders.psp import PSP29
from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCD, LCDOptions
from mettle_cache.methods.linear import LinearOptions, LinearProbe
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avel import predict_event_and_class, predict_segments
from mettle_cache.tasks.avel.task import AvelHeadOptions, AvelTask
from mettle_cache.tokens import FLOATS, LayerTokens

LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=1, grid=(2, 2), tokens=4, width=8 * stage)
    for modality in ("visual", "audio")
    for stage in (1, 2)
)
SAMPLES = pa.table(
    {
        "row": [5, 2, 9],
        "clip": ["b", "a", "b"],
        "split": ["train", "test", "test"],
        "category": ["Bark", "Flute", "Flute"],
        "start": [0, 3, 0],
        "end": [10, 5, 0],
    }
)
VOCABULARY = {"categories": ["Bark", "Flute"]}


def make(method=None, options=None, layers=LAYERS, samples=SAMPLES, vocabulary=VOCABULARY):
    return AvelTask(
        layers,
        samples=samples,
        vocabulary=vocabulary,
        segments=10,
        method=method or MethodChoice("lcd", LCDOptions()),
        options=options or AvelHeadOptions(),
    )


def tokens(batch=2, layers=LAYERS):
    generator = torch.Generator().manual_seed(0)
    return {s.name: LayerTokens(torch.randn(batch, 10, s.tokens, s.width, generator=generator), FLOATS) for s in layers}


def test_targets_are_the_labels_of_rows_by_position():
    targets = make().targets([1, 0, 2])
    assert targets.dtype == torch.int64
    assert targets.tolist() == [[2, 2, 2, 1, 1, 2, 2, 2, 2, 2], [0] * 10, [2] * 10]


def test_the_vocabulary_decides_the_number_of_categories():
    model = make(vocabulary={"categories": ["Bark", "Flute", "Clock", "Goat"]}).build_model()
    assert model.decoder.category.out_features == 4


def test_default_is_lcd_of_each_modality_and_psp_with_cmbs():
    model = make(MethodChoice("lcd", LCDOptions(k_visual=2, steps_audio=3))).build_model()
    assert isinstance(model.visual, LCD)
    assert isinstance(model.decoder, PSPCMBS)
    assert {layer.modality for layer in model.audio.layers} == {"audio"}
    assert model.visual.distillers["s1b01"].count == 2
    assert model.audio.distillers["s1b01"].count == 1
    assert [model.visual.distillers["s1b01"].steps, model.audio.distillers["s1b01"].steps] == [1, 3]


def test_every_lcd_switch_reaches_the_method():
    lcd = LCDOptions(
        dim=24,
        k_visual=(3, 1),
        heads=4,
        task_specific=True,
        pretrained_branch="avgpool",
        norm=False,
        residual=True,
    )
    visual = make(MethodChoice("lcd", lcd)).build_model().visual
    options = visual.distillers["s1b01"].options
    assert visual.output_dim == 24
    assert [visual.distillers[name].count for name in ("s1b01", "s2b01")] == [3, 1]
    assert (options.heads, options.task_specific, options.pretrained_branch) == (4, True, "avgpool")
    assert (options.norm, options.residual) == (False, True)


def test_linear_probe_and_psp29_by_option():
    options = AvelHeadOptions(decoder="psp29", avps_weight=3.0, dropout=0.2)
    model = make(MethodChoice("linear", LinearOptions(dim=12)), options).build_model()
    assert isinstance(model.visual, LinearProbe)
    assert model.visual.output_dim == 12
    assert isinstance(model.decoder, PSP29)
    assert (model.decoder.avps_weight, model.decoder.psp.dropout.p) == (3.0, 0.2)


@pytest.mark.parametrize("decoder", ["psp_cmbs", "psp29"])
def test_outputs_losses_and_predictions_fit_together(decoder):
    task = make(options=AvelHeadOptions(decoder=decoder))
    model = task.build_model().eval()
    outputs = model(tokens())
    terms = task.loss(model, outputs, task.targets([0, 1]))
    assert all(term.ndim == 0 and term.requires_grad for term in terms.values())
    predictions = task.predict({name: value.detach() for name, value in outputs.items()}, [0, 1])["labels"]
    assert predictions.shape == (2, 10)
    assert set(np.unique(predictions)) <= {0, 1, 2}


def test_scores_floors_and_details_of_a_worked_case():
    task = make()
    predictions = np.array([[2] * 10, [1] * 10])
    assert task.score({"labels": predictions}, [1, 2]) == {"accuracy": 100 * 8 / 20}
    predictions[0, 3:5] = 1
    assert task.score({"labels": predictions}, [1, 2]) == {"accuracy": 100 * 10 / 20}
    assert task.floors([1, 2]) == {"always background": 100 * 18 / 20}
    assert task.details({"labels": predictions}, [1, 2]) == {
        "accuracy_by_category": {"Flute": 100.0, "background": pytest.approx(100 * 8 / 18)}
    }


def test_prediction_table_names_the_annotation_rows_and_the_classes():
    scores = np.random.default_rng(0).random((2, 10, 3)).astype(np.float32)
    predictions = {"labels": np.array([[1] * 10, [2] * 10]), "probabilities": scores}
    table = make().prediction_table(predictions, [2, 0])
    rows = table.to_pylist()
    assert len(rows) == 20
    assert rows[0] == {
        "row": 9,
        "clip": "b",
        "segment": 0,
        "target": 2,
        "prediction": 1,
        "target_name": "background",
        "prediction_name": "Flute",
        "scores": scores[0, 0].tolist(),
    }
    assert rows[13] == {
        "row": 5,
        "clip": "b",
        "segment": 3,
        "target": 0,
        "prediction": 2,
        "target_name": "Bark",
        "prediction_name": "background",
        "scores": scores[1, 3].tolist(),
    }
    assert json.loads(table.schema.metadata[b"categories"]) == ["Bark", "Flute", "background"]


def test_the_table_comes_back_from_its_file(tmp_path):
    task, outputs = make(), {"segments": torch.randn(3, 10, 3, generator=torch.manual_seed(0))}
    pq.write_table(task.prediction_table(task.predict(outputs, [0, 1, 2]), [0, 1, 2]), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.schema.field("scores").type == pa.list_(pa.float32())
    best = np.array(table["scores"].to_pylist()).argmax(1).tolist()
    assert best == table["prediction"].to_pylist() == outputs["segments"].argmax(-1).flatten().tolist()
    names = json.loads(table.schema.metadata[b"categories"])
    assert [names[number] for number in best] == table["prediction_name"].to_pylist()


def test_probabilities_of_two_decisions_are_their_products():
    """Against the plain definitions in double precision, extreme logits among them."""
    random = np.random.default_rng(1)
    event, category = 4 * random.normal(size=(3, 10)), 3 * random.normal(size=(3, 2))
    event[0, :4] = (80, -80, 0, 0.5)
    category[0] = (0.1, 0)
    outputs = {name: torch.from_numpy(values).float() for name, values in (("event", event), ("category", category))}
    interpreted = make().interpret(outputs)
    labels, probabilities = interpreted["labels"], interpreted["probabilities"]
    assert np.array_equal(labels, predict_event_and_class(event, category))
    happens = 1 / (1 + np.exp(-event))
    classes = np.exp(category) / np.exp(category).sum(1, keepdims=True)
    expected = np.concatenate([happens[..., None] * classes[:, None], 1 - happens[..., None]], axis=-1)
    assert (probabilities.shape, probabilities.dtype) == ((3, 10, 3), np.float32)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    # the rule by which labels follow from them
    background = probabilities[..., -1] >= 0.5
    assert np.array_equal(labels, np.where(background, 2, probabilities[..., :-1].argmax(-1)))
    # an event of 0.62 that may be either of two: background has more than each, and is not the label
    assert (labels[0, 3], probabilities[0, 3].argmax()) == (0, 2)


def test_probabilities_of_segments_are_the_softmax():
    logits = 5 * np.random.default_rng(2).normal(size=(2, 10, 3))
    interpreted = make().interpret({"segments": torch.from_numpy(logits).bfloat16()})
    seen = torch.from_numpy(logits).bfloat16().double().numpy()
    np.testing.assert_allclose(
        interpreted["probabilities"], np.exp(seen) / np.exp(seen).sum(-1, keepdims=True), atol=1e-6
    )
    assert np.array_equal(interpreted["labels"], predict_segments(seen))


def test_heads_that_decide_alike_have_changed_nothing():
    task, labels = make(), np.array([[0] * 10])
    ours, others = ({"labels": labels, "probabilities": np.full((1, 10, 3), p, np.float32)} for p in (0.1, 0.2))
    assert task.changed_share(ours, others) == 0
    # predictions that an earlier version kept
    assert task.changed_share(ours, {"labels": labels + 1}) == 1


def test_one_modality_is_not_enough():
    with pytest.raises(UsageError, match="none of the 2 layers is audio"):
        make(layers=LAYERS[:2]).build_model()


def test_widths_that_differ_ask_for_input_layers_or_a_projection():
    options = AvelHeadOptions(input_width="none")
    with pytest.raises(
        UsageError, match=r"visual features are 8 wide and audio features 16\n.*head.input_width.*lcd.dim"
    ):
        make(MethodChoice("lcd", LCDOptions(dim="none")), options, layers=(LAYERS[0], LAYERS[3])).build_model()


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [({}, "names no categories"), ({"categories": ["Bark", "Flute", "background"]}, "lists 'background'")],
)
def test_vocabularies_that_cannot_be_used(vocabulary, message):
    with pytest.raises(DatasetError, match=message):
        make(vocabulary=vocabulary)


def test_the_head_stays_in_full_precision_under_autocast():
    model = make().build_model().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(tokens())
    assert {value.dtype for value in outputs.values()} == {torch.float32}


def test_scores_of_videos_average_to_the_metric_and_changes_count_segments():
    task = make()
    ours, others = ({"labels": np.random.default_rng(n).integers(0, 3, task.labels.shape)} for n in range(2))
    rows = range(len(task.labels))
    scores = task.sample_scores(ours, rows)
    assert scores == pytest.approx(100 * (ours["labels"] == task.labels).mean(1))
    assert scores.mean() == pytest.approx(task.score(ours, rows)["accuracy"])
    assert task.changed_share(ours, others) == pytest.approx((ours["labels"] != others["labels"]).mean())
