import pytest
import torch

from mettle_cache.methods.molt_fusion import TokenFusion, cosines, orthogonality_loss


def test_orthogonal_vectors_cost_nothing_and_parallel_ones_one():
    vectors = torch.linalg.qr(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()).Q[:, :5]
    lengths = torch.tensor([3.0, 0.1, 1, 40, 2]).double()[:, None]
    assert orthogonality_loss(vectors * lengths).item() == pytest.approx(0, abs=1e-28)
    assert orthogonality_loss(lengths * torch.ones(5, 8)).item() == pytest.approx(1)
    assert orthogonality_loss(torch.randn(3, 1, 8)).item() == 0
    assert orthogonality_loss(torch.tensor([[1.0, 0], [0, 1], [1, 0]])).item() == pytest.approx(2 / 6)
    torch.testing.assert_close(cosines(vectors * lengths), torch.eye(5).double().expand(3, 5, 5))


def test_a_fusion_of_alike_layers_is_their_token():
    torch.manual_seed(0)
    token = torch.randn(2, 1, 3, 8).expand(2, 4, 3, 8)
    for kind in ("per_token", "per_layer", "mean"):
        fusion = TokenFusion(8, kind)
        torch.testing.assert_close(fusion(token), token[:, 0])
        torch.testing.assert_close(fusion.weights(token), torch.full((2, 4, 3), 0.25))
        assert (kind == "mean") == (not list(fusion.parameters()))
