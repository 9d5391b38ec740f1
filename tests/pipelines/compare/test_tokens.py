import pytest
import torch

from mettle_cache.pipelines.compare.tokens import ClipMeanStore
from mettle_cache.tokens import FLOATS


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(6, 0, 4, codec="float16")


def test_every_token_is_its_clips_mean(store):
    means = ClipMeanStore.open(store.path)
    for ours, plain in zip(means.batches([[0, 3], [5]]), store.batches([[0, 3], [5]]), strict=True):
        assert ours.clips == plain.clips
        for name, tokens in ours.layers.items():
            x = plain.layers[name].floats(torch.float64)
            for clip in range(len(x)):
                expected = x[clip].reshape(-1, x.shape[-1]).mean(0).expand(x.shape[1:])
                torch.testing.assert_close(tokens.floats(torch.float64)[clip], expected, rtol=1e-3, atol=1e-4)
            assert tokens.format == FLOATS
            assert tokens.codes.is_contiguous()


def test_it_is_another_store_than_the_one_it_reads(store):
    means = ClipMeanStore.open(store.path)
    assert means.key_digest not in ("", store.key_digest)
    assert (means.clips, means.layers) == (store.clips, store.layers)
