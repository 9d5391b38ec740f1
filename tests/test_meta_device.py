"""Modules on the meta device have the parameters of real ones, and everything else is as it was."""

import pytest
import timm
import torch
from torch import nn

from mettle_cache.meta_device import on_meta


def shapes(module):
    return {name: (value.shape, value.dtype) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "swinv2_cr_tiny_224"])
def test_a_network_has_the_parameters_of_the_real_one(name):
    with on_meta():
        found = timm.create_model(name)
    assert all(value.is_meta for value in found.state_dict().values())
    assert shapes(found) == shapes(timm.create_model(name))


def test_every_initial_value_of_pytorch_is_left_out_or_computed():
    fillings = [nn.init.xavier_uniform_, nn.init.xavier_normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_]
    fillings += [nn.init.trunc_normal_, nn.init.normal_, nn.init.uniform_, nn.init.zeros_, nn.init.ones_]
    with on_meta():
        weight = torch.empty(3, 4)
        for filling in fillings:
            assert filling(weight) is weight
        assert nn.init.constant_(weight, 2.0) is weight
        assert nn.init.constant_(tensor=weight, val=2.0) is weight
    assert (weight.is_meta, weight.shape) == (True, (3, 4))


def test_tensors_with_storage_are_filled_all_the_same():
    real = torch.zeros(1000)
    with on_meta():
        nn.init.normal_(real)
        real.add_(5)
    assert 4 < real.mean() < 6
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_no_random_number_is_taken():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with on_meta():
        nn.Linear(20, 20)
    assert torch.equal(torch.rand(3), expected)
