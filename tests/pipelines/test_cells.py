"""Which layers get cells."""

from dataclasses import dataclass, replace

import pytest

from mettle_cache.datasets import DATASETS
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.registry import DatasetRow


@dataclass(frozen=True)
class Codec:
    cells: bool = True


def layer(modality, stage, block, side, tokens=None):
    tokens = side * side if tokens is None else tokens
    return LayerSpec(modality=modality, stage=stage, block=block, grid=(side, side), tokens=tokens, width=8)


STAGES = (
    *(layer("visual", stage, block, side) for stage, side in ((1, 32), (2, 24), (3, 23), (4, 8)) for block in (1, 2)),
    layer("audio", 1, 1, 32),
)


def cells(dataset, layers=STAGES, codec=Codec()):
    table = cells_for(codec, dataset, layers)
    assert [replace(layer, cell=1) for layer in table] == list(layers)
    return {layer.name: layer.cell for layer in table if layer.cell > 1}


def test_stages_that_dense_heads_read_have_cells_as_far_as_they_are_fine():
    expected = {f"visual/s{stage}b0{block}": 2 for stage in (1, 2) for block in (1, 2)}
    assert cells("avs-s4") == cells("avs-ms3") == expected


@pytest.mark.parametrize("dataset", ["ave", "llp", "music-avqa", "folder", "of another package"])
def test_other_data_sets_have_none(dataset):
    assert cells(dataset) == {}


def test_other_codecs_have_none():
    assert cells("avs-s4", codec=Codec(cells=False)) == cells("avs-s4", codec=object()) == {}


def test_a_class_token_has_no_place_in_a_cell():
    assert cells("avs-s4", [layer("visual", 1, block, 32, tokens=1025) for block in range(1, 5)]) == {}


def test_a_stage_of_which_only_some_blocks_are_read_has_cells_as_a_whole():
    assert len(cells("avs-s4", [layer("visual", 1, block, 32) for block in range(1, 13)])) == 12


def test_a_store_without_the_layers_that_are_read_has_none():
    assert cells("avs-s4", STAGES[-1:]) == {}


def test_a_row_of_another_package_may_say_it():
    DATASETS.register(DatasetRow("dense", "nowhere:NOTHING", dense="audio"))
    try:
        assert cells("dense") == {"audio/s1b01": 2}
    finally:
        DATASETS.unregister("dense")
