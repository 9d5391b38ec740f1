import torch

from mettle_cache.methods.molt import MoLTOptions
from mettle_cache.methods.molt_adapters import Bottleneck, LayerAdapters
from tests.methods.test_molt import AUDIO, VISUAL


def test_a_bottleneck_starts_as_the_identity_and_learns_at_once():
    torch.manual_seed(0)
    module, latents = Bottleneck(16, 8).double(), torch.randn(3, 16, dtype=torch.float64)
    assert torch.equal(module(latents), latents)
    module(latents).square().sum().backward()
    assert module.up.weight.grad.abs().max() > 0
    assert (module.down.out_features, Bottleneck(4, 8).down.out_features) == (2, 1)


def test_queries_absorb_the_alignment_and_its_bias_needs_no_place_in_them():
    torch.manual_seed(0)
    adapters = LayerAdapters(VISUAL[1], AUDIO[1], MoLTOptions(k=2)).double()
    tokens = torch.randn(5, AUDIO[1].width, dtype=torch.float64)
    aligned = (adapters.cross_latents @ adapters.align(tokens).T * VISUAL[1].width ** -0.5).softmax(-1)
    torch.testing.assert_close((adapters.other_queries() @ tokens.T).softmax(-1), aligned)


def test_variants_hold_the_parameters_that_they_use():
    def names(router):
        adapters = LayerAdapters(VISUAL[1], AUDIO[1], MoLTOptions(k=2, router=router))
        return {name.split(".")[0] for name, _ in adapters.named_parameters()}, len(adapters.latents)

    cross = {"cross_latents", "align", "cross"}
    assert names("soft") == names("top1") == ({"uni_latents", "uni", *cross, "router", "project"}, 4)
    assert names("sum") == ({"uni_latents", "uni", *cross, "project"}, 4)
    assert names("uda_only") == ({"uni_latents", "uni", "project"}, 2)
    assert names("cda_only") == ({*cross, "project"}, 2)
