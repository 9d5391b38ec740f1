"""The way back from a norm, compiled and in PyTorch, against autograd in float64."""

import pytest
import torch

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.cpu import pooling


@pytest.mark.parametrize("implementation", [pooling, reference], ids=["compiled", "reference"])
@pytest.mark.parametrize("width", [1, 5, 96, 200])
def test_the_way_back_from_a_norm_is_autograds(width, implementation):
    rng = torch.Generator().manual_seed(width)
    d_normed, values = torch.randn(2, width, width, generator=rng)
    d_shift, norm, norm_bias = torch.randn(3, width, generator=rng)
    leaves = [part.double().requires_grad_() for part in (values, norm, norm_bias)]
    outputs = [leaves[0] * leaves[1], leaves[0] @ leaves[2]]
    expected = torch.autograd.grad(outputs, leaves, [d_normed.double(), d_shift.double()])
    d_norm, d_norm_bias = implementation.norm_gradients(d_normed, d_shift, values, norm, norm_bias)
    # the gradient of the values has taken the place of what came in
    for ours, plain in zip((d_normed, d_norm, d_norm_bias), expected, strict=True):
        torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-5)
