import numpy as np
import pytest
import torch

from mettle_cache.decoders.cmbs import PSPCMBS, video_category


def test_parameters_beside_the_core_are_the_published_number():
    with torch.device("meta"):
        head = PSPCMBS(256, 28)
    assert sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in head.psp.parameters()) == 21_845


def test_forward_equals_steps_6_and_7_written_out_in_numpy():
    torch.manual_seed(0)
    head = PSPCMBS(12, 5).double().eval()
    v, a = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    outputs = {name: value.detach().numpy() for name, value in head(v, a).items()}
    features = [x.detach().numpy() for x in head.psp(v, a)]

    def linear(module, x):
        return x @ module.weight.detach().numpy().T + module.bias.detach().numpy()

    for b in range(3):
        fv, fa = features[0][b], features[1][b]
        score = np.zeros(5)
        for module, f in ((head.visual_score, fv), (head.audio_score, fa)):
            per_segment = linear(module, f)
            score += np.array([sorted(per_segment[:, c])[-4:] for c in range(5)]).mean(axis=1) / 2
        fused = (fv + fa) / 2
        np.testing.assert_allclose(outputs["score"][b], score, atol=1e-12)
        np.testing.assert_allclose(outputs["event"][b], linear(head.event, fused)[:, 0], atol=1e-12)
        category = linear(head.category, fused.max(axis=0)) + 0.3 * score
        np.testing.assert_allclose(outputs["category"][b], category, atol=1e-12)


def test_category_of_a_video_is_its_event_whatever_surrounds_it():
    labels = torch.tensor([[3, 3, 2, 2, 3], [0, 0, 3, 3, 3], [3, 3, 3, 3, 3], [1, 1, 1, 1, 1]])
    # the all-background video is given category 0, as the peers do
    assert video_category(labels, 3).tolist() == [2, 0, 0, 1]


def test_three_loss_terms_written_out():
    torch.manual_seed(0)
    head = PSPCMBS(8, 3).double().eval()
    outputs = head(*torch.randn(2, 2, 10, 8, dtype=torch.float64))
    labels = torch.tensor([[3, 3, 2, 2, 2, 3, 3, 3, 3, 3], [0] * 10])
    terms = {name: value.item() for name, value in head.loss(outputs, labels).items()}
    p = 1 / (1 + np.exp(-outputs["event"].detach().numpy()))
    y = (labels != 3).numpy()
    bce = -np.mean(np.where(y, np.log(p), np.log(1 - p)))
    assert terms["event"] == pytest.approx(bce)
    for name in ("category", "score"):
        log_p = outputs[name].detach().log_softmax(-1)
        assert terms[name] == pytest.approx(-(log_p[0, 2] + log_p[1, 0]).item() / 2)
    assert set(terms) == {"event", "category", "score"}


def test_fewer_than_four_segments_use_them_all():
    head = PSPCMBS(8, 3).eval()
    assert head(torch.randn(1, 2, 8), torch.randn(1, 2, 8))["score"].shape == (1, 3)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    head = PSPCMBS(8, 3)
    sum(head.loss(head(torch.randn(4, 10, 8), torch.randn(4, 10, 8)), torch.randint(0, 4, (4, 10))).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
