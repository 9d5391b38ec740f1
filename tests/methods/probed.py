"""Layers of both modalities, their stored tokens, and the published backbones' layers, for the baselines' tests."""

from mettle_cache.backbones.factory import layer_table
from mettle_cache.layers import LayerSpec
from tests.methods.conftest import make_tokens

LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=1, grid=(2, 6), tokens=12, width=scale * stage)
    for modality, scale in (("visual", 8), ("audio", 4))
    for stage in (1, 2)
)
CLIPS, SEGMENTS = 2, 3


def clip_tokens(form, layers=LAYERS, *, clips=CLIPS):
    """``[B, T, N, D]`` by layer name."""
    return {
        layer.name: make_tokens(form, clips * SEGMENTS, layer.tokens, layer.width, seed=number).map(
            lambda part: part.unflatten(0, (clips, SEGMENTS))
        )
        for number, layer in enumerate(layers)
    }


def swin_and_htsat():
    return (*layer_table("swinv2_l", "visual"), *layer_table("htsat", "audio"))
