"""Which pooled layers lie in which companion, and what they take."""

from dataclasses import replace

from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import PooledLayer
from mettle_cache.pipelines.companions.pooled_table import companion_bytes, pooled_tables


def layer(modality, stage, block, side, width, classes=0):
    tokens = side * side + classes
    return LayerSpec(modality=modality, stage=stage, block=block, grid=(side, side), tokens=tokens, width=width)


FINE = (layer("visual", 1, 1, 8, 6), layer("visual", 1, 2, 8, 6), layer("visual", 2, 1, 4, 12))
LAST = layer("visual", 3, 1, 2, 24)
AUDIO = layer("audio", 1, 1, 6, 10)
LAYERS = (*FINE, LAST, AUDIO)


def pooled(spec, side=2, how="mean"):
    return PooledLayer(layer=spec, grid=(side, side), how=how)


def test_a_companion_has_one_pooling_and_one_grid_in_the_order_of_the_store():
    wanted = [pooled(AUDIO, 3), *(pooled(spec) for spec in reversed(FINE)), pooled(FINE[0], how="max"), pooled(FINE[0])]
    tables = pooled_tables(LAYERS, wanted)
    assert [(table.stem, [each.layer for each in table.pooled]) for table in tables] == [
        ("pooled-max-2x2", [FINE[0]]),
        ("pooled-mean-2x2", [*FINE]),
        ("pooled-mean-3x3", [AUDIO]),
    ]
    assert tables == pooled_tables(LAYERS, reversed(wanted))
    assert tables[1].layers == tuple(replace(spec, grid=(2, 2), tokens=4) for spec in FINE)


def test_the_name_tells_the_pooling_the_grid_and_by_a_digest_the_layers():
    (some,), (all_of_them,) = (pooled_tables(LAYERS, map(pooled, chosen)) for chosen in (FINE[:1], FINE))
    assert some.name.startswith("pooled-mean-2x2-")
    assert some.name != all_of_them.name
    assert len(some.name) == len(all_of_them.name) == len("pooled-mean-2x2-") + 8


def test_class_tokens_and_cells_are_not_those_of_a_coarser_grid():
    flat = replace(layer("visual", 1, 1, 8, 6, classes=1), cell=2)
    (table,) = pooled_tables([flat], [pooled(flat)])
    assert table.layers == (replace(flat, grid=(2, 2), tokens=4, cell=1),)


def test_what_no_companion_holds():
    assert pooled_tables(LAYERS, [pooled(LAST)]) == ()
    assert pooled_tables(FINE[1:], [pooled(FINE[0])]) == ()
    # one name in a batch for both: whoever reads them pools the layer itself
    assert pooled_tables(LAYERS, [pooled(FINE[0], 2), pooled(FINE[0], 4)]) == ()
    tables = pooled_tables(LAYERS, [pooled(FINE[0], 2), pooled(FINE[0], 4), pooled(FINE[1], 4), pooled(LAST)])
    assert [(table.stem, len(table.pooled)) for table in tables] == [("pooled-mean-4x4", 1)]


def test_the_bytes_are_those_of_float16_tokens_and_a_checksum_a_chunk():
    wanted = [*map(pooled, FINE), pooled(LAST), pooled(AUDIO, 3), pooled(FINE[2], how="max")]
    segments, clips = 10, 7
    tokens = 2 * (4 * (6 + 6 + 12) + 9 * 10 + 4 * 12)
    assert companion_bytes(LAYERS, wanted, segments, clips) == clips * (segments * tokens + 4 * 5)
    assert companion_bytes(LAYERS, (), segments, clips) == 0
