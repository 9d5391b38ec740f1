"""The layers of the benches, without a store."""

from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_layers


def test_the_full_layer_table_is_the_papers():
    """36 blocks, 52,961,280 values a clip (docs/codecs.md, "Values of a clip")."""
    layers = bench_layers()
    assert len(layers) == 36
    assert SEGMENTS * sum(layer.tokens * layer.width for layer in layers) == 52_961_280
