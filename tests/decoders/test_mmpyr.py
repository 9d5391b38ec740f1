import numpy as np
import pytest
import torch

from mettle_cache.decoders.mmil import Smoothing
from mettle_cache.decoders.mmpyr import (
    AttentionLayer,
    DilatedConvolution,
    Gate,
    Level,
    LevelFusion,
    MMPyramid,
    MMPyrOptions,
)
from tests.decoders.attention import array, attend, linear, norm, sigmoid

NORM, LINEAR = 2, 1  # parameters of each, in units of h and of h times inputs plus h


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def attention_layer(h, ffn):
    return 4 * h * h + 4 * h + 2 * h * ffn + ffn + h


def unused(h, ffn, levels):
    """What the published code registers and never applies: two layers that it copies, a norm in each attention."""
    return 2 * (attention_layer(h, ffn) + 2 * h) + (3 * levels + 2) * 2 * h


def test_the_head_of_the_paper_s_row_has_the_specified_number_of_parameters():
    with torch.device("meta"):
        assert count(MMPyramid(256, 25)) + unused(256, 1024, 1) == 6_600_269
    assert unused(256, 1024, 1) == 1_581_056


def test_the_published_sizes_have_the_published_number_of_parameters():
    inputs = (128 * 512 + 512) + (2048 * 512 + 512)
    with torch.device("meta"):
        head = MMPyramid(512, 25, options=MMPyrOptions(ffn=512, levels=4), motion=True)
        assert count(head) + inputs + unused(512, 512, 4) == 43_995_725


@pytest.fixture
def rng():
    torch.manual_seed(3)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64)


def layer(x, memory, module, hidden=None):
    """Spec 4.2: pre-norm, only the query normalised."""
    x = x + attend(module.attention, norm(x, module.attention_norm), memory, hidden)
    inner = np.maximum(linear(norm(x, module.ffn_norm), module.ffn[0]), 0)
    return x + linear(inner, module.ffn[3])


def convolve(x, module, dilation):
    """``[T, h]``; a kernel of three with zeros beyond the ends."""
    weight, bias = array(module.time.weight), array(module.time.bias)
    out = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for tap in range(3):
            at = t + (tap - 1) * dilation
            if 0 <= at < len(x):
                out[t] += weight[:, :, tap] @ x[at]
    out = np.maximum(out, 0) @ array(module.channels.weight)[:, :, 0].T + array(module.channels.bias)
    return np.maximum(x + out, 0)


def gate(own, other, module):
    both = np.concatenate([own, other], -1)
    return sigmoid(linear(both, module.own)) * own + sigmoid(linear(both, module.other)) * other


def level(v, a, module, reach):
    hidden = np.abs(np.arange(len(v))[:, None] - np.arange(len(v))) > reach
    new_v = gate(layer(v, v, module.self_visual, hidden), layer(v, a, module.cross, hidden), module.visual_gate)
    new_a = gate(layer(a, a, module.self_audio, hidden), layer(a, v, module.cross, hidden), module.audio_gate)
    return (
        convolve(new_v, module.visual_convolution, reach),
        convolve(new_a, module.audio_convolution, reach),
    )


def fuse(levels, module):
    """``[L][T, h]`` to ``[T, h]``."""
    out = []
    for second in np.stack(levels, 1):
        mixed = layer(second, second, module.layer)
        out.append((sigmoid(linear(mixed, module.weight)) * mixed).sum(0))
    return np.stack(out)


def test_a_layer_normalises_its_query_only(rng):
    module = AttentionLayer(8, 12, 2, 0.2).double().eval()
    x, memory = rng(1, 5, 8), rng(1, 5, 8)
    np.testing.assert_allclose(array(module(x, memory)[0]), layer(array(x[0]), array(memory[0]), module), atol=1e-12)


def test_gate_and_convolution(rng):
    module, x, y = Gate(8).double(), rng(1, 6, 8), rng(1, 6, 8)
    np.testing.assert_allclose(array(module(x, y)[0]), gate(array(x[0]), array(y[0]), module), atol=1e-12)
    convolution = DilatedConvolution(8, 2).double()
    np.testing.assert_allclose(array(convolution(x)[0]), convolve(array(x[0]), convolution, 2), atol=1e-12)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_a_level_attends_within_its_window(rng, reach):
    module, v, a = Level(8, 12, 2, 0.2, reach=reach).double().eval(), rng(1, 7, 8), rng(1, 7, 8)
    for got, wanted in zip(module(v, a), level(array(v[0]), array(a[0]), module, reach), strict=True):
        np.testing.assert_allclose(array(got[0]), wanted, atol=1e-12)


def test_the_whole_head_equals_the_specification_written_out(rng):
    head = MMPyramid(8, 4, options=MMPyrOptions(ffn=12, levels=2, heads=2)).double().eval()
    visual, audio = rng(3, 10, 8), rng(3, 10, 8)
    got = head(visual, audio)
    for b in range(3):
        v, a = array(visual[b]), array(audio[b])
        kept = []
        for number, module in enumerate(head.levels):
            v, a = level(v, a, module, 2**number)
            kept.append((v, a))
        fused_v, fused_a = (
            fuse([pair[place] for pair in kept], module)
            for place, module in enumerate((head.visual_fusion, head.audio_fusion))
        )
        expected = head.pooling(torch.from_numpy(fused_a)[None], torch.from_numpy(fused_v)[None])
        for name, value in expected.items():
            np.testing.assert_allclose(array(got[name][b]), array(value[0]), atol=1e-11)


def test_audio_is_audio(rng):
    """The released code reads index 0 of [visual, audio] as audio."""
    head = MMPyramid(8, 4, options=MMPyrOptions(ffn=12, heads=2)).double().eval()
    visual, audio = rng(1, 10, 8), rng(1, 10, 8)
    far = audio.clone()
    far[0, 9] += 5  # beyond the reach of second 0, in attention and convolution alike
    before, after = head(visual, audio), head(visual, far)
    assert torch.equal(before["audio"][0, 0], after["audio"][0, 0])
    moved = (before["audio"] - after["audio"]).abs().sum(), (before["visual"] - after["visual"]).abs().sum()
    assert moved[0] > moved[1] > 0


def test_motion_reaches_the_visual_side_and_every_weight_learns(rng):
    head = MMPyramid(
        8, 4, options=MMPyrOptions(ffn=12, heads=2, levels=2), motion=True, smoothing=Smoothing(0.2, 0.3)
    ).double()
    outputs = head(rng(2, 10, 8), rng(2, 10, 8), rng(2, 10, 512))
    terms = head.loss(outputs, torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]]))
    assert set(terms) == {"video", "audio", "visual"}
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_dropout_acts_in_training_only(rng):
    head, visual, audio = MMPyramid(8, 4, options=MMPyrOptions(ffn=12, heads=2)).double(), rng(1, 10, 8), rng(1, 10, 8)
    assert not torch.equal(head(visual, audio)["audio"], head(visual, audio)["audio"])
    head.eval()
    assert torch.equal(head(visual, audio)["audio"], head(visual, audio)["audio"])


def test_levels_of_one_segment_are_weighed_without_normalising(rng):
    module, levels = LevelFusion(8, 12, 2, 0.2).double().eval(), rng(1, 1, 3, 8)
    expected = fuse([array(levels[0, :, place]) for place in range(3)], module)
    np.testing.assert_allclose(array(module(levels)[0]), expected, atol=1e-12)
