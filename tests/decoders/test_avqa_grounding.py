"""Pictures that are never added up give what adding them up gives, in values and in gradients."""

import pytest
import torch
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet, Pictures, inject_vectors, position_weights
from tests.methods.injection import inject


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def layered():
    pictures = Pictures.of(random(2, 3, 5, 8)).add(random(2, 3, 2, 8, seed=1), random(2, 3, 5, 2, seed=2))
    return pictures.add(random(2, 3, 1, 8, seed=3), random(2, 3, 5, 1, seed=4))


def test_products_sums_and_norms_are_those_of_the_dense_pictures(layered):
    dense = layered.tokens + layered.weights @ layered.vectors
    asked, shares = random(2, 3, 4, 8, seed=3), random(2, 3, 4, 5, seed=4)
    assert torch.allclose(layered.dense(), dense)
    assert torch.allclose(layered.inner(asked), dense @ asked.mT)
    assert torch.allclose(layered.pool(shares), shares @ dense)
    assert torch.allclose(layered.norms(), dense.norm(dim=-1))


def test_nothing_on_top_is_the_tokens():
    tokens = random(2, 5, 8)
    assert torch.equal(Pictures.of(tokens).dense(), tokens)
    assert torch.allclose(Pictures.of(tokens).norms(), tokens.norm(dim=-1))


def test_a_position_of_zeros_has_no_direction_and_no_infinity():
    tokens = torch.zeros(3, 8)
    weights, norms = position_weights(Pictures.of(tokens), torch.ones(8))
    assert torch.allclose(weights, torch.full((3,), 1 / 3))
    assert norms.min() > 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("softmax_over", ["meta_tokens", "positions"])
def test_injection_is_equation_3_4_step_by_step(count, softmax_over):
    tokens, audio, visual = random(2, 3, 5, 8), random(2, 3, count, 8, seed=1), random(2, 3, count, 8, seed=2)
    pictures = Pictures.of(tokens)
    for vectors in (audio, visual):
        pictures = inject_vectors(pictures, vectors, softmax_over=softmax_over)
        tokens = inject(tokens, vectors, softmax_over=softmax_over)
    assert torch.allclose(pictures.dense(), tokens)


def dense_grounding(net, heard, picture):
    """docs/protocols/avqa.md, "Answering head", as it is printed, on positions that are there."""
    unit = functional.normalize(picture, dim=-1)
    weights = (unit @ functional.normalize(heard, dim=-1).unsqueeze(-1)).squeeze(-1).softmax(-1)
    focus = (weights.unsqueeze(-2) @ unit).squeeze(-2)
    return net.fc_gl(torch.tanh(torch.cat([picture.mean(-2), focus], -1)))


@pytest.mark.parametrize("count", [1, 2])
def test_grounding_and_its_gradients_are_those_of_the_printed_formula(count):
    torch.manual_seed(0)
    net = GroundingNet(3, 8).double()
    tokens, heard = random(2, 5, 8), random(2, 8, seed=1).requires_grad_()
    audio, visual = (random(2, count, 8, seed=seed).requires_grad_() for seed in (2, 3))
    pictures, dense = Pictures.of(tokens), tokens
    for vectors in (audio, visual):
        pictures = inject_vectors(pictures, vectors, softmax_over="meta_tokens")
        dense = inject(dense, vectors)
    leaves = (heard, audio, visual, net.fc_gl.weight)
    ours, printed = net.ground(heard, pictures), dense_grounding(net, heard, dense)
    assert torch.allclose(ours, printed)
    factors = random(2, 8, seed=4)
    for found, expected in zip(
        torch.autograd.grad((ours * factors).sum(), leaves),
        torch.autograd.grad((printed * factors).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(found, expected)
