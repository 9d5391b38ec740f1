from dataclasses import replace

import pytest

from mettle_cache.pipelines.evaluate.comparison import compare_with_paper
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.sample_loader import Split, read_split
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.tasks.avel.task import AvelTask

ARCHITECTURES = {
    name: found
    for row in AvelTask.published
    for name, found in zip((row.visual, row.audio), row.architectures, strict=True)
}


def fingerprint(backbone, modality, kind="pretrained"):
    return {
        "architecture": ARCHITECTURES.get(backbone, backbone),
        "modality": modality,
        "weights": {"kind": kind, "digest": "0"},
    }


@pytest.fixture
def make_store(tiny_store):
    def make(visual="swinv2_l", audio="htsat", kinds=("pretrained", "pretrained"), **changes):
        prints = {
            modality: fingerprint(name, modality, kind)
            for modality, name, kind in zip(("visual", "audio"), (visual, audio), kinds, strict=True)
        }
        return tiny_store(2, 1, 3, key={"backbones": prints}, **changes)

    return make


def compare(store, recipe="ave-swin-htsat", overrides=(), split="test", selected_on="test"):
    recipe = load_recipe(recipe, overrides)
    return compare_with_paper(
        bind_task(recipe, store), recipe, store, read_split(store, split), selected_on=selected_on
    )


@pytest.mark.parametrize(("count", "said"), [(401, True), (402, False), (403, True)])
def test_any_other_number_of_test_samples_is_said(make_store, count, said):
    store = make_store()
    recipe = load_recipe("ave-swin-htsat")
    split = Split("test", (0,) * (count - 1), (1,))
    differs = compare_with_paper(bind_task(recipe, store), recipe, store, split, selected_on="test").differs
    assert (f"data: {count} test samples instead of 402" in differs) == said


TOKENS = "tokens: stored as {}, where the paper feeds the backbones' floats to the head"
FEWER = "data: 3 test samples instead of 402"
ON_TEST = "protocol: the epoch was selected on test, as the paper's peers do; the score is optimistic"


@pytest.mark.parametrize(
    ("visual", "audio", "accuracy"),
    [
        ("swinv2_l", "htsat", 83.3),
        ("swinv2_l", "swinv2_l", 82.3),
        ("vit_l16", "vit_l16", 80.6),
        ("resnext101", "htsat", 80.1),
    ],
)
def test_the_row_is_that_of_the_backbones(make_store, visual, audio, accuracy):
    assert compare(make_store(visual, audio)).paper.scores == {"accuracy": accuracy}


@pytest.fixture
def of_three(monkeypatch):
    """The published rows, as if they were for three test samples."""
    rows = tuple(replace(row, test_samples=3) for row in AvelTask.published)
    monkeypatch.setattr(AvelTask, "published", rows)


def test_the_published_recipe_on_all_data_is_comparable(make_store, of_three):
    comparison = compare(make_store())
    assert comparison.differs == []
    assert comparison.notes == [TOKENS.format("int8"), ON_TEST]


def test_a_coarse_codec_has_to_show_what_it_costs(make_store, of_three):
    assert compare(make_store(codec="float16")).notes == [TOKENS.format("float16"), ON_TEST]
    comparison = compare(make_store(codec="int4"))
    assert (comparison.differs, comparison.notes) == ([TOKENS.format("int4")], [ON_TEST])


def test_training_that_did_not_end_is_a_difference(make_store, of_three):
    store, recipe = make_store(), load_recipe("ave-swin-htsat")
    comparison = compare_with_paper(
        bind_task(recipe, store), recipe, store, read_split(store, "test"), selected_on="test", ended_early="a reason"
    )
    assert comparison.differs == ["protocol: training ended before its last epoch: a reason"]


@pytest.mark.parametrize(
    ("visual", "audio", "setting"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0", "ave-swin-shared"),
        ("vit_l16", "htsat", "ave-swin-htsat"),
        ("resnext101", "resnext101", "ave-swin-shared"),
        ("resnext101", "vggish", "ave-resnext-htsat"),
        ("vit_l16", "vit_l16", "ave-vit-shared"),
    ],
)
def test_a_store_stands_beside_the_row_of_its_own_mode(make_store, visual, audio, setting):
    assert compare(make_store(visual, audio)).paper.setting == setting


def test_other_backbones_stand_beside_the_best_row_and_say_so(make_store):
    comparison = compare(make_store("tf_efficientnet_lite0", "tf_efficientnet_lite0"))
    assert comparison.paper.setting == "ave-swin-shared"
    expected = "backbones: tf_efficientnet_lite0 + shared instead of swinv2_large_window12_192.ms_in22k + shared"
    assert comparison.differs[0] == expected


def test_random_weights_are_named_by_modality(make_store):
    differs = compare(make_store(kinds=("random", "pretrained"))).differs
    assert differs[0] == "weights: the visual backbone's are random, not pretrained"


def test_recipe_changes_are_listed(make_store):
    differs = compare(make_store(), overrides=["lcd.k_visual=1", "train.epochs=2"]).differs
    assert differs[-2:] == ["recipe: lcd.k_visual = 1 instead of 2", "recipe: train.epochs = 2 instead of 10"]


def test_split_and_selection_are_said(make_store):
    differs = compare(make_store(), split="val", selected_on="val").differs
    assert differs == [
        "protocol: scored on val instead of test",
        "protocol: the epoch was selected on val, where the paper's peers select on test",
    ]


def test_selection_on_the_split_of_the_peers_is_no_difference(make_store, monkeypatch):
    monkeypatch.setattr(AvelTask, "published", tuple(replace(row, selected_on="val") for row in AvelTask.published))
    assert compare(make_store(), selected_on="val").differs == [FEWER]
    assert compare(make_store(), selected_on="last").differs[-1] == (
        "protocol: the epoch was selected on last, where the paper's peers select on val"
    )
    on_test = "protocol: the epoch was selected on test, as the paper's peers do not; the score is optimistic"
    assert compare(make_store(), selected_on="test").differs[-1] == on_test


def test_samples_without_tokens_are_said_for_train_too(make_store):
    store = make_store(failed={"train000": "x", "test001": "y"})
    assert compare(store).differs[:2] == [
        "data: train samples left out because their clips have no tokens: 2",
        "data: test samples left out because their clips have no tokens: 1",
    ]


def test_nothing_is_published_for_a_data_set_of_ones_own(make_store, monkeypatch):
    store = make_store(kinds=("random", "pretrained"), failed={"train000": "x"})
    monkeypatch.setattr(AvelTask, "published", tuple(replace(row, dataset="elsewhere") for row in AvelTask.published))
    comparison = compare(store)
    assert comparison.paper_json() is None
    assert comparison.differs == [
        "data: nothing is published of the data set 'ave'",
        "weights: the visual backbone's are random, not pretrained",
        "data: train samples left out because their clips have no tokens: 2",
    ]
    monkeypatch.setattr(AvelTask, "published", ())
    assert compare(store) == comparison
