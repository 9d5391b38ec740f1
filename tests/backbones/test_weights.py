import torch
from torch import nn

from mettle_cache.backbones.weights import weights_digest


def test_the_digest_is_over_names_types_and_bytes():
    module = nn.Linear(2, 2)
    digest = weights_digest(module)
    assert len(digest) == 32
    assert weights_digest(module) == digest
    other = nn.Linear(2, 2)
    other.load_state_dict(module.state_dict())
    assert weights_digest(other) == digest
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    assert weights_digest(other) != digest
    assert weights_digest(nn.Sequential(module)) != digest
