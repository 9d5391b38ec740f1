"""Of the layers that a method reads, offered alone, the same method is made: exported heads are rebuilt so."""

import pytest

from mettle_cache.late_bundle import bundle_name
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.direct import DirectOptions
from mettle_cache.methods.layermean import LayerMeanOptions
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.lst import LSTOptions
from mettle_cache.methods.molt import MoLTOptions
from mettle_cache.methods.registry import METHODS, MethodChoice
from mettle_cache.methods.sherl import SHERLOptions
from mettle_cache.methods.unipt import UniPTOptions
from tests.methods.late_bundles import ShapesOnly
from tests.methods.side_networks import HTSAT, SWIN, with_embedding

OFFERED = (*with_embedding(SWIN), *with_embedding(HTSAT))
BUNDLES = {
    bundle_name(layers[0].modality): ShapesOnly(*layers[-2:], heads=heads, post=post)
    for layers, heads, post in ((SWIN, 48, True), (HTSAT, 32, False))
}
CHOICES = [
    ("lcd", LCDOptions(k_visual=(8, 4, 2, 1)), 38),
    ("linear", LinearOptions(), 2),
    ("direct", DirectOptions(), 2),
    ("layermean", LayerMeanOptions(), 38),
    ("molt", MoLTOptions(), 12),
    ("molt", MoLTOptions(late=0, early=3), 6),
    ("molt", MoLTOptions(late=2, early=3), 10),
    # early and late layers overlap in HTS-AT
    ("molt", MoLTOptions(late=10, early=8), 30),
    ("molt", MoLTOptions(late="all"), 36),
    ("lst", LSTOptions(), 38),
    ("lst", LSTOptions(drop_layers=("visual/s1b00", "visual/s3b07", "audio/s4b02")), 35),
    ("unipt", UniPTOptions(), 38),
    ("unipt", UniPTOptions(preset="matched"), 38),
    ("sherl", SHERLOptions(), 36),
    ("sherl", SHERLOptions(late_blocks=0, down="gated"), 38),
]


def test_every_method_is_here():
    assert {name for name, *_ in CHOICES} == set(METHODS.names())


@pytest.mark.parametrize(("name", "options", "count"), CHOICES)
def test_the_layers_that_are_read_make_the_same_method(name, options, count):
    choice = MethodChoice(name, options, BUNDLES)
    read = choice.layers(OFFERED)
    assert len(read) == count
    assert choice.layers(read) == read
    assert choice.pooled(read) == choice.pooled(OFFERED)
    with on_meta():
        whole, again = choice.build(OFFERED), choice.build(read)
    assert again.layers == whole.layers
    assert [(key, value.shape) for key, value in again.state_dict().items()] == [
        (key, value.shape) for key, value in whole.state_dict().items()
    ]
