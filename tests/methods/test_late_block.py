"""The replay itself is compared with real backbones in tests/backbones, and with its definition in test_sherl.py."""

import pytest
import torch

from mettle_cache.companions import HeldCompanion
from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.late_bundle import describe_refusal
from mettle_cache.layers import LayerSpec
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.late_block import FrozenLateBlock
from tests.methods.late_bundles import STORE, ShapesOnly, late_companion

BEFORE, LAYER = (LayerSpec(modality="audio", stage=2, block=block, grid=(2, 2), tokens=4, width=8) for block in (1, 2))


def test_frames_do_not_meet_and_their_axes_stay():
    late = FrozenLateBlock(late_companion(BEFORE, LAYER, heads=2, post=True), "late")
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    together = late(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together[1, 2], late(x[1, 2][None])[0])


def test_on_the_meta_device_only_the_header_is_read():
    with on_meta():
        late = FrozenLateBlock(ShapesOnly(BEFORE, LAYER, heads=2, post=True), "late")
    assert all(buffer.is_meta for buffer in late.buffers())
    assert not list(late.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d.update(kind="other"), "it is no block that this version knows"),
        (lambda d, t: d.update(activation="relu"), "it is no block that this version knows"),
        (lambda d, t: d.pop("heads"), "heads"),
        (lambda d, t: d.update(heads=3), "tensors that do not fit: bias, scale"),
        (lambda d, t: d.update(layer=7), "validation error"),
        (lambda d, t: t.pop("proj_weight"), "tensors that do not fit: proj_weight"),
        (lambda d, t: t.update(more=torch.zeros(1)), "tensors that do not fit: more"),
        (lambda d, t: t.update(fc1_bias=torch.zeros(1)), "tensors that do not fit: fc1_bias"),
    ],
)
def test_a_bundle_that_is_none_is_refused(change, message):
    companion = late_companion(BEFORE, LAYER, heads=2, post=True)
    description, tensors = dict(companion.description), dict(companion.tensors)
    change(description, tensors)
    with pytest.raises(StoreCorruptError, match=f"late-audio: the late bundle is not one.*{message}"):
        FrozenLateBlock(HeldCompanion(description, tensors), "late-audio")


def test_a_companion_may_say_why_there_is_no_block():
    with pytest.raises(UsageError, match="no block"):
        FrozenLateBlock(HeldCompanion(describe_refusal("no block", STORE), {}), "late-audio")
