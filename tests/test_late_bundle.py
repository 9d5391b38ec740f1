import dataclasses

import pytest

from mettle_cache.companions import CompanionFile, companion_bytes
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import bundle_name, planned_bundles, read_block
from mettle_cache.layers import LayerSpec
from tests.methods.late_bundles import STORE, late_block, late_companion

BEFORE, LAYER = (LayerSpec(modality="audio", stage=4, block=block, grid=(2, 3), tokens=6, width=8) for block in (1, 2))


def test_a_description_gives_the_block_back(tmp_path):
    path = tmp_path / bundle_name("audio")
    for post in (True, False):
        companion = late_companion(BEFORE, LAYER, heads=4, post=post, scaled=not post)
        path.write_bytes(companion_bytes(companion.tensors, companion.description))
        assert read_block(CompanionFile(path, STORE), path.name) == late_block(BEFORE, LAYER, heads=4, post=post)


def test_every_field_is_described():
    block = late_block(BEFORE, LAYER, heads=4, post=True)
    described = block.describe(STORE)
    assert {field.name for field in dataclasses.fields(block)} | {"kind", "store", "activation"} == set(described)
    assert described["layer"]["name"] == "audio/s4b02"


def test_bundles_are_planned_from_a_table():
    planned = planned_bundles([BEFORE, LAYER])
    assert planned.keys() == {"late-audio.safetensors"}
    block = read_block(planned["late-audio.safetensors"], "late-audio")
    assert (block.before, block.layer) == (BEFORE, LAYER)
    # one map a stage: nothing like the last layer enters its block
    maps = [dataclasses.replace(LAYER, stage=stage, block=1, width=4 * stage) for stage in (1, 2)]
    for layers in (maps, maps[:1]):
        (companion,) = planned_bundles(layers).values()
        with pytest.raises(UsageError, match=r"the backbone of audio/s\db01 has no attention block to replay"):
            read_block(companion, "late-audio")
