"""The stores that benches write for themselves."""

import pytest
import torch

from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_layers
from mettle_cache.store import TokenStore, verify_store
from tests.store.tiny import CODECS


@pytest.mark.parametrize("codec", [*CODECS, "klt1.5", "klt0"])
def test_a_store_is_real_and_its_clips_differ(tmp_path, codec):
    layers = bench_layers(tiny=True)
    path = tmp_path / "store"
    write_bench_store(path, layers, codec=codec, clips=3)
    assert verify_store(path, deep=True).ok
    with TokenStore.open(path) as store:
        assert (store.codec, len(store.clips), store.segments) == (codec, 3, SEGMENTS)
        assert store.nbytes <= store_bytes(layers, codec, 3)
        first, second = (store.read([clip]).layers for clip in (0, 1))
        for layer in layers:
            # where norms are stored, they keep their places, and tokens without their norms change theirs
            a, b = first[layer.name].normalised(), second[layer.name].normalised()
            assert not torch.equal(a, b) or codec == "klt0"
            # the same tokens in another order
            assert torch.equal(a.sort(-2).values, b.sort(-2).values)
