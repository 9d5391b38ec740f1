"""What tasks build alike: the decoder's precision, a method's own losses, widths and methods that do not fit."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.protocol import MetaTokens, Method
from mettle_cache.methods.registry import METHODS, MethodChoice
from mettle_cache.tasks.model import AudioVisualModel, common_width, require_method
from mettle_cache.tasks.protocol import auxiliary_terms
from mettle_cache.tokens import FLOATS, LayerTokens

LAYERS = tuple(
    LayerSpec(modality=modality, stage=1, block=1, grid=(1, 3), tokens=3, width=width)
    for modality, width in (("visual", 6), ("audio", 4))
)


class Sum(nn.Module):
    """A decoder that says what it was given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, visual, audio, scale):
        return {"sum": self.linear(visual + audio) * scale, "visual": visual, "audio": audio}


class WithLoss(Method):
    """Both modalities at once, and a loss of its own."""

    visual_dim = audio_dim = 4
    layers = LAYERS

    def forward(self, tokens):
        visual, audio = (tokens[layer.name].floats().mean(-2)[..., :4] for layer in LAYERS)
        return MetaTokens(visual, audio, {"spread": visual.var()})


def tokens():
    generator = torch.Generator().manual_seed(0)
    return {layer.name: LayerTokens(torch.randn(2, 5, 3, layer.width, generator=generator), FLOATS) for layer in LAYERS}


def test_meta_tokens_of_each_modality_reach_the_decoder_in_its_order():
    method = MethodChoice("linear", LinearOptions(dim=4)).build(LAYERS)
    model = AudioVisualModel(method, Sum())
    given = tokens()
    outputs = model(given, scale=torch.tensor(3.0))
    assert set(outputs) == {"sum", "visual", "audio"}
    assert torch.equal(outputs["visual"], method.visual(given))
    assert torch.equal(outputs["audio"], method.audio(given))
    assert torch.equal(outputs["sum"], 3 * model.decoder.linear(method.visual(given) + method.audio(given)))
    # checkpoints name the modalities, and no method
    assert {name.split(".")[0] for name in model.state_dict()} == {"visual", "audio", "decoder"}


def test_the_decoder_stays_in_full_precision_where_the_method_does_not():
    model = AudioVisualModel(MethodChoice("linear", LinearOptions(dim=4)).build(LAYERS), Sum())
    seen = []
    model.visual.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(tokens(), scale=torch.ones(()))
    assert seen == [torch.bfloat16]
    assert {output.dtype for output in outputs.values()} == {torch.float32}


def test_a_methods_own_losses_are_terms_of_the_loss():
    model = AudioVisualModel(WithLoss(), Sum())
    given = tokens()
    outputs = model(given, scale=torch.ones(()))
    expected = given[LAYERS[0].name].codes.mean(-2)[..., :4].var()
    assert {name: value.item() for name, value in auxiliary_terms(outputs).items()} == {
        "auxiliary_spread": pytest.approx(expected.item())
    }


@pytest.mark.parametrize("widths", [(6, 4), (4, 6)])
def test_widths_that_differ_are_refused_with_both(widths):
    visual, audio = widths
    with pytest.raises(
        UsageError, match=f"visual features are {visual} wide and audio features {audio}\n.*input_width"
    ):
        common_width(SimpleNamespace(visual_dim=visual, audio_dim=audio))
    assert common_width(SimpleNamespace(visual_dim=4, audio_dim=4)) == 4


def test_a_method_that_a_task_cannot_use_is_refused_with_the_reason():
    require_method(MethodChoice("lcd", LCDOptions()), ("linear", "lcd"), reason="it reads maps")
    with pytest.raises(UsageError, match="it reads maps, so it takes linear, not 'lcd'") as caught:
        require_method(MethodChoice("lcd", LCDOptions()), ("linear",), reason="it reads maps")
    assert f"installed: {', '.join(METHODS.names())}" in caught.value.hint
