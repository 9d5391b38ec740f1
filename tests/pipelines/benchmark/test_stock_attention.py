import pytest
import torch
from torch import nn

from mettle_cache.methods.lcd import LCD
from mettle_cache.pipelines.benchmark.stock_attention import StockLCD, use_stock_attention
from tests.methods.stock import StockLCD as Oracle
from tests.methods.stock import lcd_options
from tests.methods.test_lcd import LAYERS, build_pair, clip_tokens


@pytest.mark.parametrize(
    "switches",
    [
        {"meta_tokens": 2, "steps": 2, "dim": 24},
        {"meta_tokens": [4, 1], "residual": True},
        {"norm": False, "pretrained_branch": "avgpool"},
        {"pretrained_branch": "none"},
        {"task_specific": False},
        {"layers": LAYERS[2:], "dim": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["int8", "klt"])
def test_it_is_the_same_function(form, switches):
    absorbed, oracle = build_pair(**switches)
    tokens = clip_tokens(form, switches.get("layers", LAYERS))
    torch.testing.assert_close(StockLCD(absorbed)(tokens), oracle(tokens), rtol=1e-12, atol=1e-12)


def test_every_lcd_of_a_model_is_replaced_and_the_parameters_are_the_same_objects():
    model = nn.ModuleDict({"visual": LCD(LAYERS, lcd_options(dim=8)), "other": nn.Linear(2, 2)})
    before, tokens = list(model.parameters()), clip_tokens("int4")
    expected = Oracle(model["visual"])(tokens)
    use_stock_attention(model)
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in before]
    assert isinstance(model["visual"], StockLCD)
    torch.testing.assert_close(model["visual"](tokens), expected)
