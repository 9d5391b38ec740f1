"""The bill of some clips of a data set: their bytes, and the files that they touch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.backbones import layer_table
from mettle_cache.pipelines.extract.bills import layer_bill
from mettle_cache.store.format.codecs import CODECS

LAYERS = layer_table("test_vit", "visual")


def bill(taken, *, clips=20, codec="int8", each=4, free=10**12):
    facts = {"dataset": "ave", "segments": 10, "clips_per_shard": each, "free": free, "speed": 1e6}
    return layer_bill(LAYERS, "all", codec, clips=clips, taken=taken, **facts)


@given(taken=st.sets(st.integers(0, 19)), codec=st.sampled_from(CODECS.names()), each=st.sampled_from([1, 4, 32]))
def test_clips_that_are_left_out_cost_no_bytes_and_their_shards_a_log(taken, codec, each):
    whole, part = (bill(sorted(chosen), codec=codec, each=each) for chosen in (range(20), taken))
    assert part.clip_bytes == whole.clip_bytes
    assert whole.nbytes - part.nbytes == (20 - len(taken)) * whole.clip_bytes
    empty = set(range(-(-20 // each))) - {index // each for index in taken}
    arrays = bill([0], clips=1, codec=codec, each=1).files - 1  # a shard's, and static ones
    static = 2 * bill([0], clips=1, codec=codec, each=1).files - bill([0, 1], clips=2, codec=codec, each=1).files
    assert whole.files - part.files == len(empty) * (arrays - static)


@pytest.mark.parametrize(("room", "fits"), [(1.5, True), (0.9, False)])
def test_what_must_fit_is_what_is_taken(room, fits):
    needed = bill([0, 1, 2], clips=200).nbytes
    assert bill([0, 1, 2], clips=200, free=int(needed * room)).fits == fits
    assert not bill(range(200), clips=200, free=int(needed * room)).fits
