import math

import pytest
import torch
from torch.nn import functional

from mettle_cache.decoders.avqa import AVQADecoder, QuestionEncoder, TemporalAttention
from mettle_cache.decoders.avqa_grounding import GroundingNet, Pictures, match_targets, position_weights
from mettle_cache.errors import UsageError


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def build(cls, *args, **options):
    with torch.device("meta"):
        return cls(*args, **options)


@pytest.mark.parametrize(
    ("audio", "visual", "dim", "total"),
    [
        (768, 1536, None, 66_870_444),
        (128, 512, None, 7_916_716),
        # docs/protocols/avqa.md, "Parameter accounting": a small head has 9.03 M
        (768, 1536, 512, 7_916_716 - (128 - 768) * 512 + 1536 * 512 + 512),
    ],
)
def test_the_head_has_the_published_number_of_parameters(audio, visual, dim, total):
    assert parameters(build(AVQADecoder, audio, visual, words=93, answers=42, dim=dim)) == total


def test_each_part_has_its_row_of_the_table():
    head = build(AVQADecoder, 768, 1536, words=93, answers=42)
    assert parameters(head.question) == 142_848 + 18_886_656 + 4_720_128
    assert parameters(head.visual_attention) == parameters(head.audio_attention) == 9_443_328 + 4_721_664 + 3_072
    assert parameters(head.fusion) == 4_720_128
    assert parameters(head.answer) == 64_554


@pytest.mark.parametrize(("audio", "dim", "total"), [(768, 1536, 10_000_002), (128, 512, 1_542_786)])
def test_the_seven_layers_have_the_published_names_and_shapes(audio, dim, total):
    net = build(GroundingNet, audio, dim)
    assert parameters(net) == total
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "fc_a1.weight": (dim, audio),
        "fc_a2.weight": (dim, dim),
        "fc_gl.weight": (dim, 2 * dim),
        "fc1.weight": (512, 2 * dim),
        "fc2.weight": (256, 512),
        "fc3.weight": (128, 256),
        "fc4.weight": (2, 128),
    }


def test_position_weights_of_a_worked_case():
    pictures = Pictures.of(torch.tensor([[2.0, 0.0], [0.0, 0.1], [3.0, 4.0]]))
    weights, norms = position_weights(pictures, torch.tensor([3.0, 0.0]))
    assert norms.tolist() == pytest.approx([2, 0.1, 5])
    powers = [math.exp(cosine) for cosine in (1.0, 0.0, 0.6)]
    assert weights.tolist() == pytest.approx([power / sum(powers) for power in powers])


def test_weights_sum_to_one_and_stay_soft():
    generator = torch.Generator().manual_seed(0)
    pictures = Pictures.of(torch.randn(5, 36, 8, generator=generator))
    weights, _ = position_weights(pictures, 100 * torch.randn(5, 8, generator=generator))
    assert torch.allclose(weights.sum(-1), torch.ones(5))
    assert (weights.amax(-1) / weights.amin(-1) <= math.e**2 + 1e-4).all()


def grounded_by_hand(net, heard, picture):
    """docs/protocols/avqa.md, "Answering head", by positions: raw features in the mean, unit ones in focus."""
    units = [position / position.norm() for position in picture]
    logits = torch.stack([unit @ (heard / heard.norm()) for unit in units])
    shares = torch.exp(logits) / torch.exp(logits).sum()
    focus = sum(share * unit for share, unit in zip(shares, units, strict=True))
    mean = sum(picture) / len(picture)
    return net.fc_gl.weight @ torch.tanh(torch.cat([mean, focus])) + net.fc_gl.bias


def test_grounding_and_match_are_the_formula_second_by_second():
    torch.manual_seed(0)
    net = GroundingNet(3, 4).double()
    audio = torch.randn(2, 5, 3).double()
    positive, negative = torch.randn(2, 2, 5, 6, 4).double().unbind()
    heard, seen, match = net(audio, Pictures.of(positive), Pictures.of(negative))
    assert (heard.shape, seen.shape, match.shape) == ((2, 5, 4), (2, 5, 4), (20, 2))
    for b in range(2):
        for t in range(5):
            a = net.fc_a2.weight @ (net.fc_a1.weight @ audio[b, t] + net.fc_a1.bias).clamp_min(0) + net.fc_a2.bias
            assert torch.allclose(heard[b, t], a)
            for offset, picture in ((0, positive), (1, negative)):
                z = grounded_by_hand(net, a, picture[b, t])
                x = torch.cat([a, z])
                for layer in (net.fc1, net.fc2, net.fc3):
                    x = (layer.weight @ x + layer.bias).clamp_min(0)
                expected = net.fc4.weight @ x + net.fc4.bias
                assert torch.allclose(match[2 * (5 * b + t) + offset], expected)
            assert torch.allclose(seen[b, t], grounded_by_hand(net, a, positive[b, t]))


def test_match_targets_interleave_over_all_rows():
    assert match_targets(torch.zeros(6, 2)).tolist() == [1, 0, 1, 0, 1, 0]


def test_the_match_loss_is_the_mean_over_positives_and_negatives_halved():
    head = AVQADecoder(2, 4, words=5, answers=3)
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
    outputs = {"answer": torch.zeros(2, 3), "match": logits}
    terms = head.loss(outputs, torch.tensor([0, 2]))
    wanted = [math.log(1 + math.exp(margin)) for margin in (-2.0, -1.0, 0.0, -2.0)]
    assert terms["answer"].item() == pytest.approx(math.log(3))
    assert terms["match"].item() == pytest.approx(0.5 * sum(wanted) / 4)
    assert set(head.loss({"answer": torch.zeros(2, 3)}, torch.tensor([0, 2]))) == {"answer"}


def lstm_by_hand(encoder, indexes):
    """One question, a word at a time: tanh of the embedding, the LSTM's gates, tanh of both last states."""
    lstm, width = encoder.lstm, encoder.lstm.hidden_size
    hidden = cell = torch.zeros(width).double()
    for index in indexes:
        word = torch.tanh(encoder.embedding.weight[index])
        gates = lstm.weight_ih_l0 @ word + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        enter, forget, new, leave = gates.chunk(4)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
    return encoder.linear.weight @ torch.tanh(torch.cat([hidden, cell])) + encoder.linear.bias


@pytest.mark.parametrize("packed", [False, True])
def test_the_question_runs_through_its_padding_unless_it_is_packed(packed):
    torch.manual_seed(0)
    encoder = QuestionEncoder(9, 4, packed=packed).double()
    questions = torch.tensor([[3, 1, 8, 0, 0], [2, 2, 5, 7, 1]])
    encoded = encoder(questions)
    first = [3, 1, 8] if packed else [3, 1, 8, 0, 0]
    assert torch.allclose(encoded[0], lstm_by_hand(encoder, first))
    assert torch.allclose(encoded[1], lstm_by_hand(encoder, [2, 2, 5, 7, 1]))


def test_temporal_attention_has_no_residual_with_the_question():
    torch.manual_seed(0)
    module = TemporalAttention(8).eval()
    question, second = torch.randn(2, 8), torch.randn(2, 1, 8)
    # of one second the attention takes all, whatever is asked
    value = functional.linear(second[:, 0], module.attention.in_proj_weight[16:], module.attention.in_proj_bias[16:])
    found = module.attention.out_proj(value)
    expected = module.norm(found + module.linear_2(functional.relu(module.linear_1(found))))
    assert torch.allclose(module(question, second), expected, atol=1e-6)
    assert torch.allclose(module(torch.randn(2, 8), second), expected, atol=1e-6)


def test_a_width_that_four_heads_do_not_divide_is_refused():
    with pytest.raises(
        UsageError, match=r"the AVQA head is 6 wide, which 4 attention heads do not divide\n.*head\.dim"
    ):
        AVQADecoder(3, 6, words=5, answers=3)


def inputs(batch, seconds=10):
    generator = torch.Generator().manual_seed(batch)
    audio = torch.randn(batch, seconds, 6, generator=generator)
    positive, negative = torch.randn(2, batch, seconds, 4, 8, generator=generator).unbind()
    question = torch.randint(0, 7, (batch, 5), generator=generator)
    return audio, Pictures.of(positive), question, Pictures.of(negative)


@pytest.mark.parametrize(("batch", "seconds"), [(1, 10), (3, 10), (1, 1), (2, 1)])
@pytest.mark.parametrize("dim", [None, 12])
def test_shapes_hold_for_one_question_and_for_one_second(batch, seconds, dim):
    head = AVQADecoder(6, 8, words=7, answers=5, dim=dim)
    outputs = head(*inputs(batch, seconds))
    assert outputs["answer"].shape == (batch, 5)
    assert outputs["match"].shape == (2 * batch * seconds, 2)


def test_a_question_is_answered_alone_as_in_a_batch():
    torch.manual_seed(0)
    head = AVQADecoder(6, 8, words=7, answers=5).eval()
    audio, positive, question, _ = inputs(3)
    together = head(audio, positive, question)
    assert "match" not in together
    for row in range(3):
        own = slice(row, row + 1)
        alone = head(audio[own], Pictures.of(positive.tokens[own]), question[own])
        assert torch.allclose(alone["answer"][0], together["answer"][row], atol=1e-6)


def test_the_answer_has_no_gradient_into_the_negatives():
    audio, positive, question, negative = inputs(2)
    positive, negative = positive.tokens.requires_grad_(), negative.tokens.requires_grad_()
    head = AVQADecoder(6, 8, words=7, answers=5)
    outputs = head(audio, Pictures.of(positive), question, Pictures.of(negative))
    outputs["answer"].sum().backward(retain_graph=True)
    assert negative.grad is None or not negative.grad.any()
    assert positive.grad.any()
    outputs["match"][:, 0].sum().backward()
    assert negative.grad.any()


def test_the_answer_fuses_what_was_found_with_what_is_there():
    torch.manual_seed(0)
    head = AVQADecoder(6, 8, words=7, answers=5).eval()
    audio, positive, question, _ = inputs(2)
    heard, seen, _ = head.grounding(audio, positive)
    asked = head.question(question)
    found = head.audio_attention(asked, heard) + heard.mean(1), head.visual_attention(asked, seen) + seen.mean(1)
    fused = torch.tanh(torch.cat(found, dim=1)) @ head.fusion.weight.T + head.fusion.bias
    expected = torch.tanh(fused * asked) @ head.answer.weight.T + head.answer.bias
    assert torch.allclose(head(audio, positive, question)["answer"], expected, atol=1e-6)
