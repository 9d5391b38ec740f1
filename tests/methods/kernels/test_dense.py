import copy

import pytest
import torch

from mettle_cache.methods.kernels.dense import project_tokens
from tests.methods.conftest import make_tokens


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_of_tokens_is_that_of_decoded_tokens(form, bias):
    tokens = make_tokens(form, 6, 12, 16).map(lambda part: part.unflatten(0, (2, 3)))
    linear = torch.nn.Linear(16, 5, bias=bias, dtype=torch.float64)
    stock = copy.deepcopy(linear)
    projected, expected = project_tokens(tokens, linear), stock(tokens.floats(torch.float64))
    torch.testing.assert_close(projected, expected, rtol=1e-11, atol=1e-11)
    for output in (projected, expected):
        output.square().sum().backward()
    for ours, theirs in zip(linear.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-11 * theirs.grad.abs().max().item())


def test_autocast_does_not_round_the_products():
    tokens, linear = make_tokens("int8", 6, 12, 16), torch.nn.Linear(16, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = project_tokens(tokens, linear)
    assert torch.equal(projected, project_tokens(tokens, linear))
