import json
import tomllib
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.registry import METHODS
from mettle_cache.pipelines.train.recipe import (
    default_recipe,
    load_recipe,
    recipe_differences,
    recipe_from_json,
    resolve_recipe,
)
from mettle_cache.pipelines.train.recipe_file import list_recipes
from mettle_cache.pipelines.train.spec import combine_variants

# Tables 13 and 14, and docs/protocols/avel.md, "Parameter accounting", for the width
PUBLISHED = {
    "ave-swin-htsat": {"dim": 256, "k_visual": 2, "k_audio": 1},
    "ave-swin-shared": {"dim": 256, "k_visual": 1, "k_audio": 1},
    "ave-vit-shared": {"dim": "none", "k_visual": 1, "k_audio": 1},
    "ave-resnext-htsat": {"dim": 256, "k_visual": 1, "k_audio": 1},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_paper_s_hyper_parameters(name):
    recipe = load_recipe(name)
    assert {key: getattr(recipe.method_options, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    assert (recipe.method_options.steps_visual, recipe.method_options.steps_audio) == (1, 1)
    assert (recipe.train.batch_size, recipe.train.epochs, recipe.train.learning_rate) == (16, 10, 4e-4)
    assert (recipe.train.step_size, recipe.train.gamma, recipe.train.weight_decay) == (3, 0.35, 0.0)
    assert (recipe.task, recipe.method, recipe.layers, recipe.head.decoder) == ("avel", "lcd", "all", "psp_cmbs")


def test_every_file_of_the_folder_is_a_recipe_and_is_listed():
    assert {*PUBLISHED, "ave-small", "music-avqa-small"} <= set(list_recipes())
    assert all(load_recipe(name).name == name for name in list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_survives_json(name):
    recipe = load_recipe(name, ["lcd.k_visual=[4,2]"])
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), where="x") == recipe
    assert recipe.to_json() == json.loads(json.dumps(recipe.to_json()))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("lcd.k_visual=[8, 4, 2, 1]", "lcd.k_visual", (8, 4, 2, 1)),
        ("lcd.k_audio=4", "lcd.k_audio", 4),
        ("lcd.steps_visual = 2", "lcd.steps_visual", 2),
        ("lcd.task_specific=false", "lcd.task_specific", False),
        ("lcd.pretrained_branch=avgpool", "lcd.pretrained_branch", "avgpool"),
        ('lcd.pretrained_branch="none"', "lcd.pretrained_branch", "none"),
        ("lcd.dim=none", "lcd.dim", "none"),
        ("lcd.norm=false", "lcd.norm", False),
        ("lcd.residual=true", "lcd.residual", True),
        ("lcd.heads=4", "lcd.heads", 4),
        ("layers=last:6", "layers", "last:6"),
        ("layers=visual/s4,audio/s4", "layers", "visual/s4,audio/s4"),
        ("method=linear", "method", "linear"),
        ("head.decoder=psp29", "head.decoder", "psp29"),
        ("head.avps_weight=0", "head.avps_weight", 0.0),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.precision=bfloat16", "train.precision", "bfloat16"),
    ],
)
def test_overrides_are_toml_values_or_one_word(override, path, value):
    found = load_recipe("ave-swin-shared", [override])
    for part in path.replace("lcd.", "method_options.").split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_of_a_key_wins():
    assert load_recipe("ave-small", ["train.epochs=1", "train.epochs=2"]).train.epochs == 2


def test_all_mistakes_are_reported_together():
    overrides = ["lcd.k_visal=1", "lcd.k_audio=0", "train.epochs=2.5", "foo=1", "head.dropout=1.5", "bad"]
    with pytest.raises(ConfigError) as caught:
        load_recipe("ave-small", overrides)
    assert caught.value.problems == (
        "--set bad: must be key=value, for example lcd.k_visual=2",
        "head.dropout: Input should be less than 1, not 1.5 (from 0 to 1)",
        "lcd.k_audio: Input should be greater than or equal to 1, not 0 (from 1 to 1024), "
        "or Input should be a valid array, not 0",
        "lcd.k_visal: no such key; did you mean k_visual?",
        "train.epochs: Input should be a valid integer, not 2.5",
        f"foo: no such key (known: name, task, head, method, {', '.join(METHODS.names())}, layers, train)",
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.gamma=nan", "train.gamma: Input should be a finite number"),
        ("train.epochs=2024-01-01", "train.epochs: Input should be a valid integer"),
        ("train.epochs=true", "train.epochs: Input should be a valid integer"),
        ("train.epochs='3'", "train.epochs: Input should be a valid integer"),
        ("lcd=3", "lcd: Input should be an object"),
        ("head=3", "recipe: Input should be an object|head: Input should be an object"),
        ("lcd.k_audio.x=3", "'k_audio' is a value, not a table"),
        ("lcd.dim=1\nheads=2", "must set one value"),
        ("lcd.dim=a b", "'a b' is not a TOML value"),
        ("=3", "must be key=value"),
        ("train.batch_size=-1", "greater than or equal to 1"),
        ("method=none", r"method = 'none': no method is called so \(installed: lcd, linear"),
        ("method=3", "method: Input should be a valid string"),
        ("lcd.attention=stock", 'lcd.attention: is always "absorbed" now, not "stock"'),
        ("linear.dim=0", "linear.dim: Input should be greater than or equal to 1"),
        ("tran.epochs=3", "tran: no such key; did you mean train?"),
        ("task=asr", "task = 'asr': must be one of avel"),
        ("train.precision=fp8", "Input should be 'auto', 'float32' or 'bfloat16'"),
    ],
)
def test_wrong_values_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("ave-small", [override])


def test_switching_both_branches_off_is_refused():
    with pytest.raises(ConfigError, match="together leave nothing to train"):
        load_recipe("ave-small", ["lcd.task_specific=false", "lcd.pretrained_branch=none"])


def test_keys_that_went_are_accepted_where_they_say_what_is_now_fixed():
    assert load_recipe("ave-small", ["lcd.attention=absorbed"]) == load_recipe("ave-small")


def test_an_old_run_s_recipe_holds_both_methods_and_still_loads():
    new = load_recipe("ave-small", ["lcd.k_visual=2"])
    old = new.to_json()
    old["lcd"]["attention"] = "absorbed"
    old["linear"] = {"dim": 256}
    assert recipe_from_json(old, where="x") == new
    assert resolve_recipe(old) == new.to_json()
    old["method"] = "linear"
    assert recipe_from_json(old, where="x").method_options == LinearOptions(dim=256)
    assert resolve_recipe(old) != new.to_json()
    assert resolve_recipe({"grounding": {}}) == {"grounding": {}}


@pytest.mark.usefixtures("mean_method")
@pytest.mark.parametrize("recipe", ["avs-s4-small", "music-avqa-small"])
def test_a_task_that_cannot_use_a_method_says_which_it_takes(recipe):
    with pytest.raises(ConfigError, match=r"method = 'mean': the task .* takes lcd or linear.* only"):
        load_recipe(recipe, ["method=mean"])
    assert load_recipe("ave-small", ["method=mean", "mean.dim=8"]).method_options.dim == 8


def test_a_user_s_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('task = "avel"\n[train]\nepochs = 3\n')
    recipe = load_recipe(path)
    assert (recipe.name, recipe.train.epochs, recipe.train.batch_size) == ("mine", 3, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "task: missing"),
        (b"task = ", "this is not TOML"),
        (b"\xff\xfe", "cannot be read"),
        (b'task = "avel"\n# ' + b"x" * (1 << 16), "larger than 65536 bytes"),
        (b'task = "avel"\ntask = "avel"', "this is not TOML"),
    ],
)
def test_broken_files_are_errors_that_name_the_file(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"(?s)recipe .*mine.toml.*{message}"):
        load_recipe(path)


def test_an_unknown_name_gets_a_guess_and_the_list():
    with pytest.raises(
        UsageError, match=r"no recipe called 'ave-swin-htast'.*\n.*did you mean ave-swin-htsat\? built-in"
    ):
        load_recipe("ave-swin-htast")


@given(st.text(max_size=40))
def test_any_override_is_applied_or_refused(text):
    try:
        recipe = load_recipe("ave-small", [f"train.epochs={text}"])
    except ConfigError:
        return
    assert recipe.train.epochs == tomllib.loads(f"x = {text.strip()}")["x"] >= 1


def test_differences_name_keys_and_both_values():
    ours = load_recipe("ave-swin-shared", ["lcd.k_visual=[2,1]", "train.epochs=20"])
    lines = recipe_differences(ours, load_recipe("ave-swin-htsat"))
    assert lines == [
        "lcd.k_visual = [2, 1] instead of 2",
        "train.epochs = 20 instead of 10",
    ]
    assert recipe_differences(ours, ours) == []
    other = load_recipe("ave-swin-htsat", ["method=linear"])
    assert recipe_differences(other, load_recipe("ave-swin-htsat")) == ["method = linear instead of lcd"]


def test_odd_values_have_a_reason_beside_them():
    for name in PUBLISHED:
        text = (resources.files("mettle_cache.pipelines") / "recipes" / f"{name}.toml").read_text()
        odd = [line for line in text.splitlines() if line.startswith(("dim", "k_visual", "heads", "layers", "decoder"))]
        assert all("#" in line for line in odd), name


def fingerprint(architecture, modality):
    return {"architecture": architecture, "modality": modality, "weights": {"kind": "pretrained"}}


SWIN = "swinv2_large_window12_192.ms_in22k"


@pytest.mark.parametrize(
    ("visual", "audio", "expected"),
    [
        (SWIN, "htsat", "ave-swin-htsat"),
        (SWIN, SWIN, "ave-swin-shared"),
        ("vit_large_patch16_224.augreg_in21k", "vit_large_patch16_224.augreg_in21k", "ave-vit-shared"),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0", "ave-small"),
        (SWIN, "tf_efficientnet_lite0", "ave-small"),
    ],
)
def test_the_default_follows_from_the_store_s_key(visual, audio, expected, tiny_store):
    key = {"backbones": {"visual": fingerprint(visual, "visual"), "audio": fingerprint(audio, "audio")}}
    assert default_recipe(tiny_store(1, 1, 1, key=key)) == expected


def test_a_store_without_fingerprints_gets_the_generic_recipe(tiny_store):
    assert default_recipe(tiny_store(1, 1, 1)) == "ave-small"


def test_a_data_set_s_own_recipe_goes_before_its_task_s(tiny_store):
    assert default_recipe(tiny_store(1, 1, 1, dataset="avs-ms3")) == "avs-ms3-small"
    assert default_recipe(tiny_store(1, 1, 1, dataset="avs-s4")) == "avs-s4-small"


def test_a_data_set_without_a_task_has_no_default(tiny_store):
    with pytest.raises(UsageError, match=r"no task is for the data set 'kinetics'.*\n.*--recipe; .* a task: ave, llp"):
        default_recipe(tiny_store(1, 1, 1, dataset="kinetics"))


@pytest.mark.parametrize(
    ("override", "layers"),
    [
        ("layers=stages", "stages"),
        ("layers=[visual/last:1,audio/last:1]", "visual/last:1,audio/last:1"),
        ("layers=[visual/last:1, audio/s1b01]", "visual/last:1,audio/s1b01"),
        ('layers=["visual/last:1", "audio/last:1"]', "visual/last:1,audio/last:1"),
        ("layers=visual/last:1,audio/last:1", "visual/last:1,audio/last:1"),
        ("layers=[all]", "all"),
    ],
)
def test_a_value_with_commas_goes_in_brackets(override, layers):
    assert load_recipe("ave-small", [override]).layers == layers
    (variant,) = combine_variants(["train.epochs=1"], [override.replace(" ", "").replace('"', "")])
    assert load_recipe("ave-small", variant.overrides).layers == layers


def test_a_sweep_tries_lists_of_layers():
    variants = combine_variants(["layers=[visual/last:1,audio/last:1],[stages]"], [])
    assert [load_recipe("ave-small", variant.overrides).layers for variant in variants] == [
        "visual/last:1,audio/last:1",
        "stages",
    ]


@pytest.mark.parametrize("override", ["layers=[]", "layers=[a,,b]]", "layers=[a b", "layers=[1, 2]", "layers=[[a]]"])
def test_brackets_that_hold_no_words_are_refused(override):
    with pytest.raises(ConfigError):
        load_recipe("ave-small", [override])
