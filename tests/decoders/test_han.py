import numpy as np
import torch

from mettle_cache.decoders.han import HAN, HANOptions, HybridLayer
from tests.decoders.attention import array, attend, linear, norm


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_the_published_code():
    """9,307,723 registered: inputs and head, the layer, and 4,736,000 plus two norms of what it never calls."""
    inputs = (128 * 512 + 512) + (2048 * 512 + 512)
    with torch.device("meta"):
        assert count(HAN(512, 25, motion=True)) + inputs + 4_736_000 + 4 * 512 == 9_307_723
        assert count(HAN(512, 25).layer) == 2 * 1_050_624 + 525_312 + 2 * 1024


def test_a_layer_adds_both_attentions_then_normalises():
    torch.manual_seed(0)
    layer = HybridLayer(8, 12, 2, 0.1).double().eval()
    query, other = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    x, y = array(query[0]), array(other[0])
    x = norm(x + attend(layer.cross, x, y) + attend(layer.own, x, x), layer.attention_norm)
    expected = norm(x + linear(np.maximum(linear(x, layer.ffn[0]), 0), layer.ffn[3]), layer.ffn_norm)
    np.testing.assert_allclose(array(layer(query, other)[0]), expected, atol=1e-12)


def test_one_layer_serves_both_modalities():
    torch.manual_seed(0)
    head = HAN(8, 4, options=HANOptions(ffn=12)).double().eval()
    visual, audio = torch.randn(2, 2, 10, 8, dtype=torch.float64)
    got, turned = head(visual, audio), head(audio, visual)
    torch.testing.assert_close(got["audio"], turned["visual"])
    torch.testing.assert_close(got["video_visual"], turned["video_audio"])
    torch.testing.assert_close(got["video"], turned["video"])


def test_every_weight_learns_with_motion_too():
    torch.manual_seed(0)
    head = HAN(8, 4, options=HANOptions(ffn=12, heads=2), motion=True)
    terms = head.loss(head(torch.randn(2, 10, 8), torch.randn(2, 10, 8), torch.randn(2, 10, 512)), torch.ones(2, 4))
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
