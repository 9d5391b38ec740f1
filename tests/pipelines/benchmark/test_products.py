"""Multiply-adds counted by hand."""

import pytest

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.products import affine_products, klt_products
from mettle_cache.pipelines.train.recipe import load_recipe


def total(layers, recipe, *, segments):
    return affine_products(layers, recipe, segments=segments).total


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
    assert total([layer("visual", 1, 10, 8)], recipe, segments=1) == expected
    assert total([layer("visual", 1, 10, 8)], recipe, segments=7) == 7 * expected


def test_layers_add_up_and_each_stage_has_its_own_number_of_meta_tokens():
    first, second, heard = layer("visual", 2, 10, 8), layer("visual", 4, 6, 16), layer("audio", 1, 4, 8)
    recipe = load_recipe("ave-swin-htsat", ["lcd.k_visual=[1,3]", "lcd.k_audio=2"])
    alone = [
        total([first], load_recipe("ave-swin-htsat", ["lcd.k_visual=1"]), segments=10),
        total([second], load_recipe("ave-swin-htsat", ["lcd.k_visual=3"]), segments=10),
        total([heard], load_recipe("ave-swin-htsat", ["lcd.k_audio=2"]), segments=10),
    ]
    assert total([first, second, heard], recipe, segments=10) == sum(alone)


def test_products_of_klt_counted_by_hand():
    """N = 8, D = 8, H = 2, d = 4, K = 1, M = 16 components of cells of four tokens; two clips of one frame a step."""
    recipe = load_recipe("ave-swin-htsat", ["lcd.heads=2", "lcd.dim=4", "lcd.k_visual=1"])
    spec = LayerSpec(modality="visual", stage=1, block=1, grid=(2, 4), tokens=8, width=8, cell=2)
    form = KltFormat(width=8, grid=(2, 4), count=8, planes=(0, 8, 8, 0), cell=2)
    found = klt_products([spec], {spec.name: form}, recipe, segments=1, batch=2)
    # two scores, two contexts and their gradients, the mixing row and its gradient: 10 products with 8 x 16 values
    assert found.tokens == 10 * 8 * 16
    assert found.projections == 3 * 8 * (2 * 8 + 4)
    through = 8 * 4 * 16
    # the mixing row and its gradient; two queries and their gradients shared by two clips
    always = 2 * through + 2 * 2 * through // 2
    assert found.carried_each == always + 4 * through
    # value matrices and their gradient, 2 D^2 P M a step; three products of D P M where there were three of D^2
    assert found.carried == always + 2 * 8 * through // 2 + 3 * (through - 64)
    assert found.total == found.tokens + found.projections + found.carried_each
