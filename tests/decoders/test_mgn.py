import math

import numpy as np
import pytest
import torch
from torch import nn

from mettle_cache.decoders.grouping import Assignment, CrossAttentionBlock, GroupingBlock, SelfAttentionBlock
from mettle_cache.decoders.mgn import GATE_WEIGHT, MGN, WIDTH, MGNOptions, TemporalGate
from tests.decoders.attention import array, attend, linear, norm, softmax


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def with_published_inputs(head, dim):
    """The peers' inputs are 768 and 1536 wide where ours are both ``dim``."""
    return count(head) + (768 + 1536 - 2 * dim) * WIDTH


def test_parameters_are_those_of_the_published_code():
    layer = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 1024 + 1024 + 64 + 4 * 64
    with torch.device("meta"):
        assert with_published_inputs(MGN(256, 25, options=MGNOptions(temporal_gate=False)), 256) == 4_382_449
        gated = with_published_inputs(MGN(256, 25), 256)
        # the published gate has a second half that nothing reads, and a layer in each half that it only copies
        assert gated + count(TemporalGate(WIDTH)) + 2 * layer == 5_492_083


@pytest.fixture
def rng():
    torch.manual_seed(5)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mlp(x, module):
    return linear(gelu(linear(x, module[0])), module[2])


def cross_block(groups, segments, module):
    groups = groups + attend(module.attention, groups, segments)
    return norm(groups + mlp(norm(groups, module.mlp_norm), module.mlp), module.norm)


def assign(groups, segments, module, *, hard=False):
    logits = linear(groups, module.query) @ linear(segments, module.key).T / math.sqrt(groups.shape[1])
    soft = softmax(logits, 0)
    shares = (logits == logits.max(0)).astype(float) if hard else soft
    weights = shares / (shares.sum(1, keepdims=True) + 1)
    return linear(weights @ linear(segments, module.value), module.out), soft


def grouping(segments, seeds, module, *, hard=False):
    segments = norm(segments, module.segment_norm)
    mixed = norm(mlp(norm(seeds, module.seed_norm).T, module.mix).T, module.mixed_norm)
    groups = cross_block(mixed, segments, module.attend)
    assigned, soft = assign(groups, segments, module.assign, hard=hard)
    groups = groups + assigned
    return groups + mlp(norm(groups, module.out_norm), module.mlp), soft


def self_block(x, module):
    normed = norm(x, module.attention_norm)
    x = x + attend(module.attention, normed, normed)
    return x + mlp(norm(x, module.mlp_norm), module.mlp)


@pytest.mark.parametrize("hard", [False, True])
def test_a_grouping_block_equals_the_specification_written_out(rng, hard):
    module, segments, seeds = GroupingBlock(8, 4, 2, hard=hard).double().eval(), rng(2, 6, 8), rng(2, 4, 8)
    groups, shares = module(segments, seeds)
    for b in range(2):
        wanted, soft = grouping(array(segments[b]), array(seeds[b]), module, hard=hard)
        np.testing.assert_allclose(array(groups[b]), wanted, atol=1e-12)
        np.testing.assert_allclose(array(shares[b]), soft, atol=1e-12)
        np.testing.assert_allclose(soft.sum(0), 1)


def test_blocks_equal_the_specification_written_out(rng):
    module, x, y = SelfAttentionBlock(8, 2, 0.1).double().eval(), rng(1, 5, 8), rng(1, 3, 8)
    np.testing.assert_allclose(array(module(x)[0]), self_block(array(x[0]), module), atol=1e-12)
    cross = CrossAttentionBlock(8, 2).double()
    np.testing.assert_allclose(array(cross(y, x)[0]), cross_block(array(y[0]), array(x[0]), cross), atol=1e-12)


def test_a_hard_assignment_draws_in_training_and_lets_gradients_through(rng):
    module, groups, segments = Assignment(8, hard=True).double(), rng(2, 4, 8), rng(2, 6, 8)
    first, second = module(groups, segments)[0], module(groups, segments)[0]
    assert not torch.equal(first, second)
    first.sum().backward()
    assert module.query.weight.grad.abs().sum() > 0
    module.eval()
    assert torch.equal(module(groups, segments)[0], module(groups, segments)[0])


def test_videos_skip_blocks_in_training_and_the_mean_stays(rng):
    module, x = SelfAttentionBlock(8, 2, 0.5).double(), rng(1, 5, 8).expand(4000, -1, -1)
    mean = module(x).mean(0)
    assert module.eval()(x)[0].sub(mean).abs().max() < 0.15
    with torch.no_grad():
        skipped = SelfAttentionBlock(8, 2, 0.999).double()(x)
    assert (skipped == x).all(dim=(1, 2)).double().mean() > 0.9


def expected_outputs(head, visual, audio, motion):
    """Spec 4.1 for one video, in numpy, with the gate's weights taken as given."""
    v, a = linear(visual, head.visual_in), linear(audio, head.audio_in)
    v = v * (1 + GATE_WEIGHT * array(head.gate(torch.from_numpy(a)[None])[0]))
    v = linear(np.concatenate([v, linear(motion, head.motion.motion)], -1), head.motion.fuse)

    def mix(blocks, segments, seeds):
        x = np.concatenate([segments, seeds])
        for block in blocks:
            x = self_block(x, block)
        return x[: len(segments)], x[len(segments) :]

    seen, visual_shares = grouping(*mix(head.visual_blocks, v, array(head.visual_tokens)), head.visual_groups)
    segments, seeds = mix(head.audio_blocks, a, array(head.audio_tokens))
    segments, _ = grouping(segments, v, head.hybrid, hard=True)
    heard, audio_shares = grouping(segments, seeds, head.audio_groups)
    both, _ = grouping(*mix(head.cross_blocks, heard, seen), head.cross_groups)

    def score(groups, module):
        return 1 / (1 + np.exp(-linear(groups, module)[:, 0]))

    p_a, p_v = score(heard, head.audio_score), score(seen, head.visual_score)
    return {
        "video": score(both, head.video_score),
        "video_audio": p_a,
        "video_visual": p_v,
        "audio": (p_a[:, None] * (1 + softmax(audio_shares, 1))).T,
        "visual": (p_v[:, None] * (1 + softmax(visual_shares, 1))).T,
    }


def test_the_whole_network_equals_the_specification_written_out(rng):
    head = MGN(12, 5, segments=6).double().eval()
    for parameter in (head.audio_tokens, head.visual_tokens):
        nn.init.normal_(parameter)
    visual, audio, motion = rng(2, 6, 12), rng(2, 6, 12), rng(2, 6, 512)
    got = head(visual, audio, motion)
    for b in range(2):
        expected = expected_outputs(head, array(visual[b]), array(audio[b]), array(motion[b]))
        for name, value in expected.items():
            np.testing.assert_allclose(array(got[name][b]), value, atol=1e-10, err_msg=name)


def test_weights_start_as_published():
    torch.manual_seed(0)
    head = MGN(256, 25)
    assert not head.audio_tokens.any()
    assert not head.visual_tokens.any()
    assert head.audio_in.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.cross_blocks[0].attention.in_proj_weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.visual_groups.assign.query.bias.any()
    assert head.gate.narrow.weight.std().item() > 0.04  # PyTorch's own: up to 1 / sqrt(128)


def test_losses_have_two_terms_more_for_the_category_tokens(rng):
    head = MGN(12, 5, segments=6, options=MGNOptions(temporal_gate=False), motion=False).double()
    terms = head.loss(head(rng(2, 6, 12), rng(2, 6, 12)), torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]))
    assert list(terms) == ["video", "audio", "visual", "audio_tokens", "visual_tokens"]
    # all tokens are zero, so nothing tells them apart yet
    assert terms["audio_tokens"].item() == pytest.approx(math.log(5))
    nn.init.normal_(head.visual_tokens)
    logits = linear(array(head.visual_tokens), head.token_category)
    expected = -np.log(softmax(logits, 1)[range(5), range(5)]).mean()
    assert head.loss(head(rng(2, 6, 12), rng(2, 6, 12)), torch.zeros(2, 5))["visual_tokens"].item() == pytest.approx(
        expected
    )


def test_every_weight_learns(rng):
    head = MGN(12, 5, segments=6).double()
    nn.init.normal_(head.audio_tokens)
    terms = head.loss(head(rng(2, 6, 12), rng(2, 6, 12), rng(2, 6, 512)), torch.ones(2, 5))
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
