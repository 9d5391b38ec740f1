"""Selections of layers, on the tables of Swin-V2-L and HTS-AT."""

from dataclasses import replace

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, asks_for_embedding, select_layers, with_cells

LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=block, grid=(2, 2), tokens=4, width=8)
    for modality, depths in (("visual", (2, 2, 18, 2)), ("audio", (2, 2, 6, 2)))
    for stage, depth in enumerate(depths, 1)
    for block in range(1, depth + 1)
)


def names(selection):
    return [layer.name for layer in select_layers(LAYERS, selection)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("visual/stages", ["visual/s1b02", "visual/s2b02", "visual/s3b18", "visual/s4b02"]),
        ("audio/last:1", ["audio/s4b02"]),
        ("last:1", ["visual/s4b02", "audio/s4b02"]),
        ("audio/last:1, visual/last:2", ["visual/s4b01", "visual/s4b02", "audio/s4b02"]),
        ("visual/s1,audio/s3b05", ["visual/s1b01", "visual/s1b02", "audio/s3b05"]),
        ("last:1,visual/s4b02", ["visual/s4b02", "audio/s4b02"]),
    ],
)
def test_parts_are_joined_in_table_order(selection, expected):
    assert names(selection) == expected


def flat(depth):
    return [LayerSpec(modality="visual", stage=1, block=b, grid=(2, 2), tokens=5, width=8) for b in range(1, depth + 1)]


@pytest.mark.parametrize(
    ("depth", "blocks"), [(24, [6, 12, 18, 24]), (12, [3, 6, 9, 12]), (4, [1, 2, 3, 4]), (2, [1, 2])]
)
def test_a_pyramid_of_a_flat_backbone_is_the_ends_of_its_quarters(depth, blocks):
    assert [layer.block for layer in select_layers(flat(depth), "visual/pyramid")] == blocks


def test_one_level_of_a_pyramid_is_counted_from_the_last():
    """A backbone of less than four stages has the last levels only."""
    assert [names(f"visual/pyramid:{n}") for n in (1, 4)] == [["visual/s1b02"], ["visual/s4b02"]]
    assert names("pyramid:3") == ["visual/s3b18", "audio/s3b06"]
    assert [layer.block for n in (1, 4) for layer in select_layers(flat(8), f"pyramid:{n}")] == [2, 8]
    last = select_layers(LAYERS, "last:1")
    assert select_layers(last, "pyramid:4") == last
    with pytest.raises(UsageError, match="no such layer: pyramid:3"):
        select_layers(last, "pyramid:3")


def test_a_pyramid_of_stages_is_the_last_four():
    assert names("pyramid") == names("stages")
    five = [LayerSpec(modality="visual", stage=s, block=1, grid=(2, 2), tokens=4, width=8) for s in range(1, 6)]
    assert [layer.stage for layer in select_layers(five, "visual/pyramid")] == [2, 3, 4, 5]


def test_whole_tables_and_modalities():
    assert names("all") == [layer.name for layer in LAYERS]
    assert names("stages") == names("visual/stages,audio/stages")
    assert names("audio") == [layer.name for layer in LAYERS if layer.modality == "audio"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("", r"layers '': no such layer: \(nothing named\)"),
        ("visual/s9", "no such layer: visual/s9"),
        ("touch/stages", "no such layer: touch/stages"),
        ("stages,nonsense", "no such layer: nonsense"),
        ("last:0", "layers 'last:0': N in last:N must be from 1 to 24"),
        ("pyramid:5", "layers 'pyramid:5': N in pyramid:N must be from 1 to 4"),
        ("last:25", "N in last:N must be from 1 to 24"),
        ("audio/last:13", "layers 'audio/last:13': N in last:N must be from 1 to 12"),
        ("last:x", "N in last:N must be from 1 to 24"),
    ],
)
def test_what_cannot_be_selected(selection, message):
    with pytest.raises(UsageError, match=message):
        select_layers(LAYERS, selection)


@pytest.mark.parametrize(
    ("grid", "tokens", "width", "cell"),
    [
        ((48, 48), 2304, 192, 2),
        ((24, 24), 576, 384, 2),
        ((12, 12), 144, 768, 1),
        ((64, 64), 4096, 96, 2),
        ((16, 16), 256, 384, 1),
        ((56, 56), 3136, 24, 2),
        ((28, 28), 784, 40, 2),
        # odd sides, a class token, a basis that would be too large
        ((27, 28), 756, 40, 1),
        ((28, 28), 785, 40, 1),
        ((28, 28), 784, 768, 1),
    ],
)
def test_fine_stages_of_even_grids_take_cells(grid, tokens, width, cell):
    layer = LayerSpec(modality="visual", stage=1, block=1, grid=grid, tokens=tokens, width=width)
    assert with_cells([layer]) == (replace(layer, cell=cell),)


EMBEDDINGS = tuple(replace(layer, block=0) for layer in LAYERS if (layer.stage, layer.block) == (1, 1))
WITH_EMBEDDINGS = (EMBEDDINGS[0], *LAYERS[:24], EMBEDDINGS[1], *LAYERS[24:])


@pytest.mark.parametrize("selection", ["all", "visual", "visual/s1", "stages", "pyramid", "last:12", "audio/last:12"])
def test_only_who_names_the_patch_embedding_selects_it(selection):
    assert select_layers(WITH_EMBEDDINGS, selection) == select_layers(LAYERS, selection)
    assert not asks_for_embedding(selection, "visual")


@pytest.mark.parametrize(
    ("selection", "visual", "audio"),
    [
        ("all,embed", True, True),
        ("visual/embed, all", True, False),
        ("audio/s1b00,stages", False, True),
        ("embed", True, True),
    ],
)
def test_the_patch_embedding_is_selected_by_name(selection, visual, audio):
    assert (asks_for_embedding(selection, "visual"), asks_for_embedding(selection, "audio")) == (visual, audio)
    chosen = [layer.name for layer in select_layers(WITH_EMBEDDINGS, selection) if not layer.block]
    assert chosen == ["visual/s1b00"] * visual + ["audio/s1b00"] * audio
    if "all" in selection:
        assert len(select_layers(WITH_EMBEDDINGS, selection)) == len(LAYERS) + visual + audio


def test_layers_without_a_patch_embedding_refuse_it():
    with pytest.raises(UsageError, match="no such layer: embed"):
        select_layers(LAYERS, "all,embed")
