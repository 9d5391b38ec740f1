import pytest
import torch
from torch.nn.functional import layer_norm

from mettle_cache.errors import UsageError
from mettle_cache.methods.direct import DirectOptions, LastMeanToken
from mettle_cache.methods.kernels.ops import pools_tokens
from mettle_cache.methods.registry import MethodChoice
from tests.methods.probed import CLIPS, LAYERS, SEGMENTS, clip_tokens, swin_and_htsat


@pytest.mark.parametrize("norms", [(True, False), (False, True), (True, True), (False, False)])
def test_it_is_the_mean_of_the_last_layer_s_tokens_after_the_chosen_norms(norms):
    method = MethodChoice("direct", DirectOptions(norm_visual=norms[0], norm_audio=norms[1])).build(LAYERS).double()
    tokens = clip_tokens("int4")
    got = method(tokens)
    for layer, norm, found in zip((LAYERS[1], LAYERS[3]), norms, (got.visual, got.audio), strict=True):
        floats = tokens[layer.name].floats(torch.float64)
        floats = layer_norm(floats, floats.shape[-1:], eps=1e-5) if norm else floats
        torch.testing.assert_close(found, floats.mean(-2), rtol=0, atol=1e-11)
        assert found.shape == (CLIPS, SEGMENTS, layer.width)


def test_by_default_pictures_are_normalised_and_sound_is_not():
    assert (DirectOptions().norm("visual"), DirectOptions().norm("audio")) == (True, False)


def test_nothing_is_trained_and_only_the_last_layers_are_read():
    method = MethodChoice("direct", DirectOptions()).build(LAYERS)
    assert list(method.parameters()) == []
    assert method.state_dict() == {}
    assert method.layers == (LAYERS[1], LAYERS[3])
    assert (method.visual_dim, method.audio_dim, method.native_width) == (16, 8, True)
    assert pools_tokens(method)
    published = MethodChoice("direct", DirectOptions()).build(swin_and_htsat())
    assert (published.visual_dim, published.audio_dim) == (1536, 768)


def test_the_precision_is_the_models():
    method, tokens = MethodChoice("direct", DirectOptions()).build(LAYERS), clip_tokens("int8")
    assert method(tokens).visual.dtype == torch.float32
    assert method.double()(tokens).visual.dtype == torch.float64


def test_one_by_one_there_is_one_token_a_segment():
    method, tokens = MethodChoice("direct", DirectOptions()).build(LAYERS), clip_tokens("int8")
    assert torch.equal(method.separate(tokens).audio, method(tokens).audio.unsqueeze(-2))


def test_no_layers_are_refused():
    with pytest.raises(UsageError, match="Direct needs a layer"):
        LastMeanToken([])
