import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.decoders.avqa_grounding import Pictures
from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCD, LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.tasks.avqa.model import last_layers, take_seconds
from mettle_cache.tasks.avqa.task import AvqaHeadOptions, AvqaTask, word_indexes
from mettle_cache.tokens import FLOATS, INT8, LayerTokens
from tests.methods.injection import inject

SEGMENTS = 3
LAYERS = (
    LayerSpec(modality="visual", stage=1, block=1, grid=(3, 3), tokens=9, width=4),
    LayerSpec(modality="visual", stage=2, block=1, grid=(2, 2), tokens=4, width=8),
    LayerSpec(modality="audio", stage=1, block=1, grid=(2, 3), tokens=6, width=4),
    LayerSpec(modality="audio", stage=2, block=1, grid=(1, 3), tokens=3, width=4),
)
SAMPLES = pa.table(
    {
        "row": [0, 1, 2, 3, 0, 1, 2],
        "clip": ["a", "a", "b", "c", "d", "d", "e"],
        "split": ["train", "train", "train", "train", "test", "test", "test"],
        "modality": ["Audio", "Visual", "Audio", "Audio", "Audio", "Visual", "Audio-Visual"],
        "kind": ["Counting", "Location", "Counting", "Counting", "Counting", "Location", "Temporal"],
        "template": ["How many?", "Where?", "How many?", "How many?", "How many?", "Where?", "When?"],
        "question": ["How many", "Where is it", "How many", "How many", "How many", "Where is it", "How it"],
        "answer": ["one", "left", "two", "two", "two", "right", "two"],
    }
)
VOCABULARY = {
    "words": ["<pad>", "How", "many", "Where", "is", "it"],
    "answers": ["one", "left", "two"],
    "release": ["json_update"],
}
LCD_2 = MethodChoice("lcd", LCDOptions(dim="none", heads=2, k_visual=2, k_audio=3))


def make(method=LCD_2, layers=LAYERS, samples=SAMPLES, vocabulary=VOCABULARY, **options):
    return AvqaTask(
        layers,
        samples=samples,
        vocabulary=vocabulary,
        segments=SEGMENTS,
        method=method,
        options=AvqaHeadOptions(**options),
    )


def tokens(count, layers=LAYERS):
    generator = torch.Generator().manual_seed(0)
    return {
        s.name: LayerTokens(torch.randn(count, SEGMENTS, s.tokens, s.width, generator=generator), FLOATS)
        for s in layers
    }


def training_inputs(task, rows, seed=0):
    pool = [row for row, split in enumerate(SAMPLES["split"].to_pylist()) if split == "train"]
    return task.inputs(rows, split_rows=pool, rng=np.random.Generator(np.random.PCG64(seed)))


def test_questions_are_word_indexes_padded_on_the_right_to_14():
    indexes = word_indexes(["How many", "Where is it"], VOCABULARY["words"])
    assert indexes.shape == (2, 14)
    assert indexes[0].tolist() == [1, 2] + [0] * 12
    assert indexes[1].tolist() == [3, 4, 5] + [0] * 11
    assert word_indexes(["it " * 19 + "it"], VOCABULARY["words"]).shape == (1, 20)


def test_a_word_that_the_vocabulary_lacks_is_named():
    with pytest.raises(DatasetError, match="sample 1: the word 'who' is not one of the 6"):
        word_indexes(["How many", "who is it"], VOCABULARY["words"])


@pytest.mark.parametrize("missing", ["words", "answers"])
def test_a_store_without_vocabulary_is_refused(missing):
    with pytest.raises(DatasetError, match=f"vocabulary has no {missing}"):
        make(vocabulary={**VOCABULARY, missing: []})


def test_targets_follow_the_vocabulary_and_unseen_answers_are_none_of_it():
    assert make().targets([0, 1, 2, 5]).tolist() == [0, 1, 2, -1]


def test_only_the_last_layers_are_read_unless_all_are_asked_for():
    assert [layer.name for layer in make().layers] == ["visual/s2b01", "audio/s2b01"]
    assert make(aggregate="all_layers").layers == LAYERS
    assert [layer.name for layer in last_layers(LAYERS[:2])] == ["visual/s2b01"]


def test_questions_go_with_every_step_and_negatives_with_training_only():
    task = make()
    scored = task.inputs([4, 6], split_rows=[4, 5, 6], rng=None)
    assert (scored.rows, set(scored.tensors)) == ((), {"question"})
    assert scored.tensors["question"].tolist() == word_indexes(["How many", "How it"], VOCABULARY["words"]).tolist()
    trained = training_inputs(task, [0, 2])
    assert set(trained.tensors) == {"question", "negative_clip", "negative_second"}
    assert set(trained.rows) <= {3}


def test_the_types_travel_with_the_questions_in_any_order():
    task = make()
    answers = {4: 2, 5: 0, 6: 2}
    for rows in ([4, 5, 6], [6, 4, 5], [5, 6, 4]):
        predictions = {"answers": np.array([answers[row] for row in rows])}
        assert task.score(predictions, rows) == {
            "accuracy": pytest.approx(200 / 3),
            "audio": 100.0,
            "visual": 0.0,
            "audio_visual": 100.0,
        }
        assert task.details(predictions, rows) == {
            "accuracy_by_type": {"Audio Counting": 100.0, "Visual Location": 0.0, "Audio-Visual Temporal": 100.0},
            "questions_of": "json_update",
        }


def test_floors_are_the_train_splits_most_frequent_answers():
    # "How many?" is two, "Where?" is left (right is what was wanted), and "When?" falls back to two
    assert make().floors([4, 5, 6]) == {
        "most frequent answer of the template": pytest.approx(200 / 3),
        "always two": pytest.approx(200 / 3),
    }


def test_the_prediction_table_says_what_was_asked_and_answered():
    scores = np.array([[0.25, 0.25, 0.5], [0, 1, 0]], np.float32)
    table = make().prediction_table({"answers": np.array([2, 1]), "probabilities": scores}, [6, 5])
    assert json.loads(table.schema.metadata[b"answers"]) == list(VOCABULARY["answers"])
    assert table.to_pylist() == [
        {"row": 2, "clip": "e", "modality": "Audio-Visual", "kind": "Temporal", "question": "How it", "answer": "two",
         "prediction": "two", "probability": 0.5, "scores": [0.25, 0.25, 0.5]},
        {"row": 1, "clip": "d", "modality": "Visual", "kind": "Location", "question": "Where is it", "answer": "right",
         "prediction": "left", "probability": 1.0, "scores": [0.0, 1.0, 0.0]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options", [{}, {"negatives": "raw"}, {"dim": 12}, {"packed": True}, {"softmax_over": "positions"}]
)
@pytest.mark.parametrize("method", [LCD_2, MethodChoice("linear", LinearOptions(dim=5))])
@pytest.mark.parametrize("aggregate", ["last_layer", "all_layers"])
def test_outputs_losses_and_predictions_fit_together(method, options, aggregate):
    task = make(method=method, aggregate=aggregate, **options)
    model = task.build_model()
    inputs = training_inputs(task, [0, 2])
    outputs = model(tokens(2 + len(inputs.rows)), **inputs.tensors)
    terms = task.loss(model, outputs, task.targets([0, 2]))
    assert set(terms) == {"answer", "match"}
    sum(terms.values()).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not unused
    predictions = task.predict({name: value.detach() for name, value in outputs.items()}, [0, 2])
    raised = np.exp(outputs["answer"].detach().double().numpy())
    expected = raised / raised.sum(1, keepdims=True)
    np.testing.assert_allclose(predictions["probabilities"], expected, atol=1e-6)
    assert predictions["probabilities"].dtype == np.float32
    assert predictions["answers"].tolist() == expected.argmax(1).tolist()


def model_parts(**options):
    torch.manual_seed(0)
    task = make(**options)
    model = task.build_model().eval()
    given = training_inputs(task, [0, 2])
    return model, tokens(2 + len(given.rows)), given.tensors


def pictures_seen(model, stored, tensors):
    """What the head is given, by wrapping it."""
    seen = {}
    model.decoder.register_forward_pre_hook(lambda _module, args: seen.update(enumerate(args)))
    model(stored, **tensors)
    return {place: given.dense() if isinstance(given, Pictures) else given for place, given in seen.items()}


def distil(method, stored, layer):
    flat = LayerTokens(stored[layer].codes.flatten(0, 1), FLOATS)
    (distiller,) = method.distillers.values()
    return distiller(flat).unflatten(0, stored[layer].codes.shape[:2])


def test_the_head_hears_mean_meta_tokens_and_sees_injected_pictures():
    model, stored, tensors = model_parts()
    heard, positive, question, negative = pictures_seen(model, stored, tensors).values()
    own = {name: layer[:2] for name, layer in stored.items()}
    audio, visual = distil(model.audio, own, "audio/s2b01"), distil(model.visual, own, "visual/s2b01")
    assert (audio.shape, visual.shape) == ((2, SEGMENTS, 3, 4), (2, SEGMENTS, 2, 8))
    assert torch.allclose(heard, audio.mean(2), atol=1e-6)
    expected = inject(inject(own["visual/s2b01"].codes, model.cross(audio)), visual)
    assert torch.allclose(positive, expected, atol=1e-5)
    assert torch.equal(question, tensors["question"])
    # the negative: its own picture and meta-tokens, but the sound that it does not belong to
    taken = {"visual/s2b01": take_seconds(stored["visual/s2b01"], tensors["negative_clip"], tensors["negative_second"])}
    other = distil(model.visual, taken, "visual/s2b01")
    expected = inject(inject(taken["visual/s2b01"].codes, model.cross(audio)), other)
    assert torch.allclose(negative, expected, atol=1e-5)


def test_raw_negatives_are_what_the_backbone_gave():
    model, stored, tensors = model_parts(negatives="raw")
    negative = pictures_seen(model, stored, tensors)[3]
    for sample in range(2):
        for second in range(SEGMENTS):
            clip, place = tensors["negative_clip"][sample, second], tensors["negative_second"][sample, second]
            assert torch.equal(negative[sample, second], stored["visual/s2b01"].codes[clip, place])


def test_taken_seconds_keep_their_scale_and_zero():
    codes = torch.randint(-128, 127, (3, SEGMENTS, 4, 8), dtype=torch.int8)
    layer = LayerTokens(codes, INT8, {"scale": torch.rand(3, SEGMENTS, 8), "zero": torch.rand(3, SEGMENTS, 8)})
    clips, seconds = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[1, 2], [0, 1]])
    assert torch.equal(take_seconds(layer, clips, seconds).floats(), layer.floats()[clips, seconds])


def test_the_answer_does_not_depend_on_the_negatives():
    model, stored, tensors = model_parts()
    alone = model({name: layer[:2] for name, layer in stored.items()}, tensors["question"])
    assert torch.equal(model(stored, **tensors)["answer"], alone["answer"])
    assert set(alone) == {"answer"}


def test_all_layers_keep_the_width_of_the_last():
    model = make(aggregate="all_layers").build_model()
    assert isinstance(model.visual, LCD)
    assert (model.visual.output_dim, model.audio.output_dim) == (8, 4)
    assert len(model.visual.layers) == 2


def test_one_modality_is_not_enough():
    with pytest.raises(UsageError, match="none of the 1 layers is audio"):
        make(layers=LAYERS[:2]).build_model()


def test_widths_of_other_backbones_are_free():
    wide = dataclasses.replace(LAYERS[3], width=20)
    model = make(layers=(LAYERS[1], wide)).build_model()
    assert model.cross.weight.shape == (8, 20)
    assert model.decoder.grounding.fc_a1.weight.shape == (8, 20)


def test_the_recommended_head_has_the_parameters_of_the_specification():
    swin = LayerSpec(modality="visual", stage=4, block=2, grid=(6, 6), tokens=36, width=1536)
    htsat = LayerSpec(modality="audio", stage=4, block=2, grid=(8, 8), tokens=64, width=768)
    vocabulary = {"words": [str(n) for n in range(93)], "answers": [str(n) for n in range(42)]}
    task = make(
        MethodChoice("lcd", LCDOptions(dim="none")),
        layers=(swin, htsat),
        samples=AvqaTask.sample_schema.empty_table(),
        vocabulary=vocabulary,
    )
    with torch.device("meta"):
        total = sum(parameter.numel() for parameter in task.build_model().parameters())
    # docs/protocols/avqa.md, "Parameter accounting"; beside its attentions our norms, a meta-token and the mixing
    # branch of each LCD
    expected = 66_870_444 + 768 * 1536 + 1536
    for width, count in ((1536, 36), (768, 64)):
        expected += 4 * width**2 + 4 * width + 4 * width + width + count + 1
    assert total == expected
    assert total == pytest.approx(79.86e6, abs=0.02e6)


def test_published_rows_are_the_peers_and_have_no_total():
    assert {row.setting: row.scores["accuracy"] for row in AvqaTask.published} == {
        "music-avqa-swin-htsat": 74.8,
        "music-avqa-swin-shared": 74.0,
    }
    assert all("Mettle publishes no number" in row.source for row in AvqaTask.published)
    assert all(row.total_m is None and row.selected_on == "val" for row in AvqaTask.published)
    best = AvqaTask.published[0].scores
    # the average is pooled over 9,185 questions of the first release (docs/protocols/avqa.md, "Published scores")
    pooled = (1623 * best["audio"] + 2427 * best["visual"] + 5135 * best["audio_visual"]) / 9185
    assert pooled == pytest.approx(best["accuracy"], abs=0.05)


def test_details_are_json():
    task = make()
    assert json.loads(json.dumps(task.details({"answers": np.array([2])}, [4])))


def test_scores_of_questions_average_to_the_metric_and_changes_count_answers():
    task, rows = make(), [4, 5, 6]
    ours, others = (
        {"answers": np.array(answers), "probabilities": np.full((3, 3), p, np.float32)}
        for answers, p in (([2, 0, 2], 0.1), ([2, 1, 1], 0.2))
    )
    # nobody could learn the answer "right"
    assert task.sample_scores(ours, rows).tolist() == [100, 0, 100]
    assert task.sample_scores(ours, rows).mean() == pytest.approx(task.score(ours, rows)["accuracy"])
    assert task.changed_share(ours, others) == pytest.approx(2 / 3)
