import pytest

from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.floor import Floor, necessary_products
from mettle_cache.pipelines.train.recipe import load_recipe


def layer(modality, stage, tokens, width):
    return LayerSpec(modality=modality, stage=stage, block=1, grid=(1, tokens), tokens=tokens, width=width)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # N = 10, D = 8, H = 2, d = 4, K = 1: Q = 2 scores and contexts and their gradients, 4 x 2 x 80; two mixing rows
        # 2 x 80, the variances 80; three times D^2 + D^2 + d D
        (["lcd.k_visual=1"], 640 + 160 + 80 + 3 * (64 + 64 + 32)),
        # Q = 6 scores and query gradients, 2 x 6 x 80; the rest is of their sum
        (["lcd.k_visual=3"], 960 + 320 + 160 + 80 + 3 * (64 + 64 + 32)),
        (["lcd.pretrained_branch=avgpool"], 640 + 80 + 3 * (64 + 64 + 32)),
        (["lcd.dim=none"], 640 + 160 + 80 + 3 * (64 + 64)),
    ],
)
def test_products_of_one_frame_counted_by_hand(overrides, expected):
    recipe = load_recipe("ave-swin-htsat", ["lcd.heads=2", "lcd.dim=4", "lcd.k_visual=1", *overrides])
    assert necessary_products([layer("visual", 1, 10, 8)], recipe, segments=1) == expected
    assert necessary_products([layer("visual", 1, 10, 8)], recipe, segments=7) == 7 * expected


def test_layers_add_up_and_each_stage_has_its_own_number_of_meta_tokens():
    first, second, heard = layer("visual", 2, 10, 8), layer("visual", 4, 6, 16), layer("audio", 1, 4, 8)
    recipe = load_recipe("ave-swin-htsat", ["lcd.k_visual=[1,3]", "lcd.k_audio=2"])
    alone = [
        necessary_products([first], load_recipe("ave-swin-htsat", ["lcd.k_visual=1"]), segments=10),
        necessary_products([second], load_recipe("ave-swin-htsat", ["lcd.k_visual=3"]), segments=10),
        necessary_products([heard], load_recipe("ave-swin-htsat", ["lcd.k_audio=2"]), segments=10),
    ]
    assert necessary_products([first, second, heard], recipe, segments=10) == sum(alone)


def test_reading_and_multiplying_overlap_and_the_update_does_not():
    assert Floor(read=3.0, products=1.0, optimiser=0.5).seconds == 3.5
    assert Floor(read=1.0, products=2.0, optimiser=0.5).seconds == 2.5
    assert Floor(read=0.1, products=0.02, optimiser=0.003).describe() == (
        "the larger of 100.0 ms to read and 20.0 ms of products, and 3.0 ms of the optimiser"
    )
