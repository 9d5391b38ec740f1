"""Every row of the paper's Tables 5 to 12 is reached by recipe keys; docs/methods.md, "Ablation switches"."""

import pytest

from mettle_cache.layers import select_layers
from mettle_cache.pipelines.train.recipe import load_recipe
from tests.methods.probed import swin_and_htsat

PICTURES, SOUND = "lcd.k_visual", "lcd.k_audio"


def values(recipe, *names):
    """Options of the recipe's method or head by name."""
    owner = {**vars(recipe.head), **vars(recipe.method_options)}
    return tuple(owner[name] for name in names)


CLASSIFICATION = [
    ("Table 5", ["method=direct"], ("norm_visual", "norm_audio"), (True, False)),
    ("Table 5", ["method=linear", "linear.dim=none"], ("dim",), ("none",)),
    *(
        ("Table 6", [f"{PICTURES}={seen}", f"{SOUND}={heard}"], ("k_visual", "k_audio"), (seen, heard))
        for heard, seen in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 4))
    ),
    *(
        ("Table 7", [f"{PICTURES}={counts}", f"{SOUND}={counts}"], ("k_visual", "k_audio"), (tuple(counts),) * 2)
        for counts in ([8, 4, 2, 1], [2, 2, 1, 1])
    ),
    *(
        (
            "Table 8",
            [f"lcd.steps_audio={heard}", f"lcd.steps_visual={seen}"],
            ("steps_audio", "steps_visual"),
            (heard, seen),
        )
        for heard, seen in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 4))
    ),
    ("Table 9", ["lcd.task_specific=false"], ("task_specific", "pretrained_branch"), (False, "linear")),
    ("Table 9", ["lcd.pretrained_branch=none"], ("task_specific", "pretrained_branch"), (True, "none")),
    ("Table 10", ["lcd.pretrained_branch=avgpool"], ("pretrained_branch",), ("avgpool",)),
    (
        "equation 3.1",
        ["lcd.out_proj=false", "lcd.scale=false", "lcd.norm=false"],
        ("out_proj", "scale", "norm"),
        (False,) * 3,
    ),
]
SEGMENTATION = [
    ("Table 11", ["head.cross=false"], ("cross", "intra"), (False, True)),
    ("Table 11", ["head.intra=false"], ("cross", "intra"), (True, False)),
    ("text", ["head.order=intra_first"], ("order",), ("intra_first",)),
    *(("Table 12", [f"head.lcd_levels=[{stage},4]"], ("lcd_levels",), ((stage, 4),)) for stage in (1, 2, 3)),
    ("Table 12", ["head.lcd_levels=[4]"], ("lcd_levels",), ((4,),)),
    ("Table 6", [f"{PICTURES}=4", f"{SOUND}=4"], ("k_visual", "k_audio"), (4, 4)),
    ("Table 8", ["lcd.steps_visual=2"], ("steps_visual", "steps_audio"), (2, 1)),
]


@pytest.mark.parametrize(("table", "overrides", "names", "expected"), CLASSIFICATION)
@pytest.mark.parametrize("recipe", ["ave-swin-htsat", "ave-swin-shared", "llp-swin-htsat"])
def test_switches_of_classification(recipe, table, overrides, names, expected):
    loaded = load_recipe(recipe, overrides)
    assert values(loaded, *names) == expected
    layers = select_layers(swin_and_htsat(), loaded.layers)
    assert loaded.method_choice().layers(layers)


@pytest.mark.parametrize(("table", "overrides", "names", "expected"), SEGMENTATION)
@pytest.mark.parametrize("recipe", ["avs-s4-swin-htsat", "avs-ms3-swin-shared"])
def test_switches_of_segmentation(recipe, table, overrides, names, expected):
    assert values(load_recipe(recipe, overrides), *names) == expected


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_single_stage_is_a_selection_of_layers(stage):
    """LCD on the layers of one stage: 49.5, 64.7, 80.4 and 81.7 % on AVE in the text beside Table 12."""
    recipe = load_recipe("ave-swin-shared", [f"layers=visual/s{stage},audio/s{stage}"])
    layers = recipe.method_choice().layers(select_layers(swin_and_htsat(), recipe.layers))
    assert {layer.stage for layer in layers} == {stage}
    assert {layer.modality for layer in layers} == {"visual", "audio"}


def test_a_backbone_is_a_store_s_and_no_key():
    """Table 1: a recipe for each of the three pairs of backbones."""
    assert {load_recipe(name).task for name in ("ave-vit-shared", "ave-swin-shared", "ave-swin-htsat")} == {"avel"}
