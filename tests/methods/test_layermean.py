import pytest
import torch
from torch.nn.functional import layer_norm

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.layermean import LayerMean, LayerMeanOptions
from mettle_cache.methods.registry import MethodChoice
from tests.methods.probed import LAYERS, clip_tokens, swin_and_htsat

# two layers of one width and one of another
VISUAL = (
    LAYERS[0],
    LAYERS[1],
    LayerSpec(modality="visual", stage=2, block=2, grid=(2, 6), tokens=12, width=16),
)


def build(layers=VISUAL, **options):
    torch.manual_seed(0)
    module = LayerMean(layers, LayerMeanOptions(**{"dim": 5, **options})).double()
    with torch.no_grad():
        module.scores.normal_()
    return module


def plainly(module, tokens):
    """The sum over layers as the module's docstring has it, of decoded tokens."""
    shares = torch.exp(module.scores) / torch.exp(module.scores).sum()
    total = 0
    for share, layer in zip(shares, module.layers, strict=True):
        floats = tokens[layer.name].floats(torch.float64)
        floats = layer_norm(floats, (layer.width,), eps=1e-5) if module.norm else floats
        linear = module.linears[str(layer.width)]
        total = total + share * (floats.mean(-2) @ linear.weight.T + linear.bias)
    return total


# klt tokens are normalised before they are stored: test_mean_token has their norm
@pytest.mark.parametrize(
    ("form", "norm"), [("float64", False), ("float64", True), ("int8", False), ("int8", True), ("klt", False)]
)
def test_outputs_and_gradients_are_those_of_the_formula(form, norm):
    module, tokens = build(norm=norm), clip_tokens(form, VISUAL)
    got, expected = module(tokens), plainly(module, tokens)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-10)
    weights = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad((z * weights).sum(), list(module.parameters())) for z in (got, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-9)


def test_of_one_width_it_is_superb_s_weighted_sum_through_one_linear():
    module, tokens = build(VISUAL[1:]), clip_tokens("int8", VISUAL)
    means = torch.stack([tokens[layer.name].floats(torch.float64).mean(-2) for layer in VISUAL[1:]])
    expected = module.linears["16"](torch.einsum("l,lbtd->btd", module.scores.softmax(0), means))
    torch.testing.assert_close(module(tokens), expected, rtol=1e-12, atol=1e-10)


def test_layers_weigh_alike_before_the_first_step():
    assert LayerMean(VISUAL).scores.softmax(0).tolist() == pytest.approx([1 / 3] * 3)


def test_parameters_are_counted_as_the_docstring_says():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(build()) == 3 + (8 * 5 + 5) + (16 * 5 + 5)
    with torch.device("meta"):
        method = MethodChoice("layermean", LayerMeanOptions()).build(swin_and_htsat())
    assert count(method.visual) == 24 + sum(width * 256 + 256 for width in (192, 384, 768, 1536))
    assert count(method.audio) == 12 + sum(width * 256 + 256 for width in (96, 192, 384, 768))
    assert method.layers == swin_and_htsat()


def test_one_by_one_there_is_one_token_a_segment():
    method, tokens = MethodChoice("layermean", LayerMeanOptions(dim=6)).build(LAYERS), clip_tokens("int8")
    assert torch.equal(method.separate(tokens).visual, method(tokens).visual.unsqueeze(-2))
    assert (method.visual_dim, method.audio_dim, method.native_width) == (6, 6, False)


def test_no_layers_are_refused():
    with pytest.raises(UsageError, match="a mean over layers needs a layer"):
        LayerMean([])


def test_autocast_changes_nothing():
    module, tokens = LayerMean(VISUAL, LayerMeanOptions(dim=5)), clip_tokens("int8", VISUAL)
    expected = module(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(tokens), expected)
