import math

import numpy as np
import pytest
import torch
from torch import nn

from mettle_cache.decoders.psp import PSP, PSP29, pair_similarity_loss


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("dim", "total"), [(256, 393_728), (1024, 4_719_104)])
def test_core_has_the_published_number_of_parameters(dim, total):
    with torch.device("meta"):
        assert count(PSP(dim)) == total


def test_classifier_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert count(PSP29(256, 28).classifier) == 18_240


def test_linears_have_no_bias_and_the_norm_is_shared_with_its_own_eps():
    psp = PSP(16)
    assert all(module.bias is None for module in psp.modules() if isinstance(module, nn.Linear))
    assert [module.eps for module in psp.modules() if isinstance(module, nn.LayerNorm)] == [1e-6]


def test_linears_start_xavier_uniform():
    torch.manual_seed(0)
    weight = PSP(64).visual_out.weight
    bound = math.sqrt(6 / (64 + 256))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def relu(x):
    return np.maximum(x, 0)


def propagate(beta, tau):
    """Spec 4.3, one row after the other."""
    out = np.zeros_like(beta)
    for i, row in enumerate(beta):
        weights = row / (row.sum() + 1e-8)
        weights = np.array([w if w > tau else 0.0 for w in weights])
        out[i] = weights / (weights.sum() + 1e-8)
    return out


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def test_core_equals_the_specification_written_out_in_numpy():
    torch.manual_seed(1)
    psp = PSP(12).double().eval()
    nn.init.normal_(psp.norm.weight), nn.init.normal_(psp.norm.bias)
    v, a = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    got_v, got_a = psp(v, a)
    w = {name: module.weight.detach().numpy() for name, module in psp.named_modules() if isinstance(module, nn.Linear)}
    for b in range(3):
        x, y = v[b].numpy(), a[b].numpy()
        v1, v2 = relu(x @ w["visual_1"].T), relu(x @ w["visual_2"].T)
        a1, a2 = relu(y @ w["audio_1"].T), relu(y @ w["audio_2"].T)
        beta = relu(v2 @ a1.T / math.sqrt(12))
        new_x = x + propagate(beta, 0.099) @ a2
        new_y = y + propagate(beta.T, 0.099) @ v1
        np.testing.assert_allclose(got_v[b].detach(), layer_norm(relu(new_x @ w["visual_out"].T), psp.norm), atol=1e-12)
        np.testing.assert_allclose(got_a[b].detach(), layer_norm(relu(new_y @ w["audio_out"].T), psp.norm), atol=1e-12)


def test_a_uniform_row_of_ten_survives_the_threshold_and_zeros_stay_zeros():
    psp = PSP(4)
    uniform = psp.propagation(torch.full((1, 10, 10), 0.3))
    torch.testing.assert_close(uniform, torch.full((1, 10, 10), 0.1), rtol=1e-5, atol=1e-6)
    # so it does over more segments than the published ones, of which each has less
    for count in (11, 60, 600):
        weights = psp.propagation(torch.full((1, count, count), 0.3))
        torch.testing.assert_close(weights, torch.full((1, count, count), 1 / count), rtol=1e-4, atol=1e-6)
    assert psp.propagation(torch.zeros(1, 10, 10)).eq(0).all()
    peaked = torch.tensor([[[0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(
        psp.propagation(peaked), torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]]), rtol=1e-5, atol=1e-6
    )


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    psp, v, a = PSP(16), torch.randn(1, 10, 16), torch.randn(1, 10, 16)
    assert not torch.equal(psp(v, a)[0], psp(v, a)[0])
    psp.eval()
    assert torch.equal(psp(v, a)[0], psp(v, a)[0])


def test_pair_similarity_worked_case():
    similarity = torch.tensor([[0.5, 0.5, -1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    events = torch.tensor([[True, False, True, False], [False] * 4])
    # row 1: (0.5, 0.5, 0, 0) against (0.5, 0, 0.5, 0); row 2: no event, so all four, which it is
    assert pair_similarity_loss(similarity, events).item() == pytest.approx((0.25 + 0.25) / 8, rel=1e-6)


def test_loss_of_the_classifier_and_its_switch():
    torch.manual_seed(0)
    head = PSP29(8, 3, avps_weight=100.0).eval()
    outputs = head(torch.randn(2, 10, 8), torch.randn(2, 10, 8))
    labels = torch.randint(0, 4, (2, 10))
    terms = head.loss(outputs, labels)
    log_p = outputs["segments"].log_softmax(-1)
    expected = -sum(log_p[b, t, labels[b, t]] for b in range(2) for t in range(10)) / 20
    torch.testing.assert_close(terms["segments"], expected)
    torch.testing.assert_close(terms["avps"], 100 * pair_similarity_loss(outputs["similarity"], labels != 3))
    head.avps_weight = 0.0
    assert set(head.loss(outputs, labels)) == {"segments"}
