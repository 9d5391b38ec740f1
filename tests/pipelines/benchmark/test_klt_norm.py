"""How far ``klt`` tokens as they decode are from a LayerNorm of what they stand for: docs/methods.md says it."""

import pytest
import torch

from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.benchmark.layer_tokens import bench_static
from mettle_cache.pipelines.benchmark.spectral import spectral_tokens
from mettle_cache.store.format.codecs import encode_layers, get_codec

LAYER = LayerSpec(modality="visual", stage=2, block=1, grid=(10, 10), tokens=100, width=96)


def distance(a, b):
    return (torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).item()


@pytest.mark.parametrize(("codec", "low", "high"), [("klt1.5", 0.02, 0.1), ("klt0", 0.3, 0.7)])
def test_decoded_tokens_are_not_those_of_a_norm_and_nearer_to_the_original_ones(codec, low, high):
    raw = spectral_tokens(LAYER, 3, torch.Generator().manual_seed(5))
    tokens = encode_layers({LAYER.name: raw}, get_codec(codec), [LAYER], bench_static((LAYER,), codec))[LAYER.name]
    decoded = tokens.normalised(torch.float64)
    anew, exact = (torch.nn.functional.layer_norm(x.double(), (96,), eps=1e-5) for x in (tokens.floats(), raw))
    assert low < distance(decoded, anew) < high
    assert distance(decoded, exact) < distance(anew, exact)
