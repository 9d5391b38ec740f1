"""The compiled pass against autograd in float64."""

import pytest
import torch

from mettle_cache.methods.kernels.cpu.norm import leave_norm


@pytest.mark.parametrize("width", [1, 5, 96, 200])
def test_the_way_back_from_a_norm_is_autograds(width):
    rng = torch.Generator().manual_seed(width)
    d_normed, values = torch.randn(2, width, width, generator=rng)
    d_shift, norm, norm_bias = torch.randn(3, width, generator=rng)
    leaves = [given.double().requires_grad_() for given in (values, norm, norm_bias)]
    outputs = [leaves[0] * leaves[1], leaves[0] @ leaves[2]]
    wanted = torch.autograd.grad(outputs, leaves, [d_normed.double(), d_shift.double()])
    d_norm, d_norm_bias = torch.full((2, width), torch.nan)
    leave_norm(*(given.numpy() for given in (d_normed, d_shift, values, norm, norm_bias, d_norm, d_norm_bias)))
    for found, expected in zip((d_normed, d_norm, d_norm_bias), wanted, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
