"""Input layers: where they are added, what they compute, and that models without them stay as they were."""

import pytest
import torch
from torch import nn

from mettle_cache.errors import OptionsError
from mettle_cache.methods.direct import DirectOptions
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import task_on_layers
from mettle_cache.tasks.input_layers import InputLayerOptions, InputLayers, input_layers
from tests.methods.probed import LAYERS, clip_tokens, swin_and_htsat

# of one width, as with a shared backbone
ALIKE = (LAYERS[0], LAYERS[3])
DIRECT, NATIVE = MethodChoice("direct", DirectOptions()), MethodChoice("linear", LinearOptions(dim="none"))
LCD = MethodChoice("lcd", LCDOptions(dim="none", heads=4))


@pytest.mark.parametrize(
    ("choice", "layers", "options", "two", "expected"),
    [
        (DIRECT, LAYERS, {}, False, (16, 8, 256)),
        (DIRECT, ALIKE, {}, False, (8, 8, 256)),
        (NATIVE, LAYERS, {}, False, (16, 8, 256)),
        (NATIVE, ALIKE, {}, False, None),  # what such runs have always been
        (LCD, ALIKE, {}, False, None),
        (NATIVE, ALIKE, {"input_width": 32}, False, (8, 8, 32)),
        (DIRECT, LAYERS, {"input_width": "none"}, False, None),
        (DIRECT, LAYERS, {}, True, None),
        (DIRECT, LAYERS, {"input_width": 32}, True, (16, 8, 32)),
    ],
)
def test_where_they_are_added(choice, layers, options, two, expected):
    inputs = input_layers(choice.build(layers), InputLayerOptions(**options), takes_two_widths=two)
    found = inputs and (inputs.visual[0].in_features, inputs.audio[0].in_features, inputs.width)
    assert found == expected


def test_they_are_linear_relu_and_dropout():
    torch.manual_seed(0)
    inputs = InputLayers(6, 4, 5, 0.5)
    visual, audio = torch.randn(2, 3, 6), torch.randn(2, 3, 4)
    for x, layers, got in zip(
        (visual, audio), (inputs.visual, inputs.audio), inputs.eval()(visual, audio), strict=True
    ):
        torch.testing.assert_close(got, (x @ layers[0].weight.T + layers[0].bias).clamp(min=0))
        assert layers[2].p == 0.5
    assert [type(layer) for layer in inputs.visual] == [nn.Linear, nn.ReLU, nn.Dropout]


def head(recipe, *overrides, layers=None):
    """The model of a recipe on the published backbones' layers, on the meta device."""
    loaded = load_recipe(recipe, overrides)
    vocabulary = {"categories": [str(number) for number in range(28 if loaded.task == "avel" else 25)]}
    task = task_on_layers(loaded, layers or swin_and_htsat(), vocabulary=vocabulary, segments=10)
    with torch.device("meta"):
        return task.build_model()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_direct_on_events_has_the_published_input_layer():
    """0.590 M: 1536 and 768 to 256; the head after it is that of every method."""
    model = head("ave-swin-htsat", "method=direct")
    assert count(model.inputs) == 1536 * 256 + 256 + 768 * 256 + 256 == 590_336
    assert count(model) == 590_336 + count(head("ave-swin-htsat", "method=linear").decoder)
    linear = head("ave-swin-htsat", "method=linear", "linear.dim=none")
    assert count(linear) == count(model) + 2_951_424


def test_the_published_runs_have_none_and_their_checkpoints_the_names_of_before():
    for recipe in ("ave-swin-htsat", "llp-swin-htsat"):
        model = head(recipe)
        assert model.inputs is None
        assert {name.split(".")[0] for name in model.state_dict()} == {"visual", "audio", "decoder"}


def test_mgn_takes_two_widths_in_its_own_linears():
    model = head("llp-swin-htsat", "method=direct", "head.decoder=mgn", "head.motion=false")
    assert model.inputs is None
    decoder = model.decoder
    assert (decoder.visual_in.in_features, decoder.audio_in.in_features) == (1536, 768)
    for name in ("mmpyr", "han"):
        assert head("llp-swin-htsat", "method=direct", f"head.decoder={name}").inputs.width == 256


def test_a_head_on_input_layers_learns_through_them():
    method = MethodChoice("direct", DirectOptions())
    recipe = load_recipe("ave-small", ["method=direct", "head.input_width=12"])
    vocabulary = {"categories": ["Bark", "Flute"]}
    task = task_on_layers(recipe, LAYERS, vocabulary=vocabulary, segments=3)
    assert recipe.method_choice() == method
    model = task.build_model()
    labels = torch.tensor([[0, 0, 2], [1, 2, 2]])
    sum(task.loss(model, model(clip_tokens("int8")), labels).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.inputs.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_width": 0}, "input_width: Input should be greater than or equal to 1, not 0"),
        ({"input_width": "wide"}, "Input should be 'auto' or 'none', not \"wide\""),
        ({"input_dropout": 1.0}, "input_dropout: Input should be less than 1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(OptionsError, match=message):
        InputLayerOptions(**options)
