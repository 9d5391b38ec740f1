"""TPAVI against the published form, which makes a table of scores over all positions of all frames."""

import math

import pytest
import torch

from mettle_cache.decoders.avsbench import AUDIO_WIDTH, TPAVI, matching_divergence


def published(module, maps, audio):
    """Attention over T H W positions in "dot" mode, as AVSBench writes it."""
    batch, frames, width, height, side = maps.shape
    x = maps.permute(0, 2, 1, 3, 4)
    heard = module.align(audio)
    spread = heard.permute(0, 2, 1)[..., None, None].expand(batch, width, frames, height, side)
    g = module.value(x).flatten(2).transpose(1, 2)
    theta = module.query(x).flatten(2).transpose(1, 2)
    phi = module.key(spread).flatten(2)
    scores = theta @ phi
    y = (scores / scores.shape[-1]) @ g
    y = y.transpose(1, 2).reshape(batch, width // 2, frames, height, side)
    z = module.batch_norm(module.output(y)) + x
    return module.norm(z.permute(0, 2, 3, 4, 1)).permute(0, 1, 4, 2, 3), heard


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = TPAVI(8).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def test_outputs_and_gradients_are_the_published_ones(module):
    maps = torch.randn(2, 3, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(2, 3, AUDIO_WIDTH, dtype=torch.float64, requires_grad=True)
    got, expected = module(maps, audio), published(module, maps, audio)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(got[0])
    inputs = [maps, audio, *module.parameters()]
    ours = torch.autograd.grad((got[0] * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected[0] * weights).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_it_starts_as_the_norm_of_its_input():
    module = TPAVI(8).double()
    maps, audio = torch.randn(1, 2, 8, 3, 3).double(), torch.randn(1, 2, AUDIO_WIDTH).double()
    expected = torch.nn.functional.layer_norm(maps.movedim(2, -1), (8,)).movedim(-1, 2)
    torch.testing.assert_close(module(maps, audio)[0], expected)


def test_the_published_count():
    with torch.device("meta"):
        assert sum(p.numel() for p in TPAVI(256).parameters()) == 165_760


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def plainly(logits, maps, heard):
    """One frame; lists of numbers."""
    terms = []
    for picture, sound in zip(maps, heard, strict=True):
        channels, side = len(picture), len(picture[0])
        block = len(logits) // side
        seen = []
        for channel in range(channels):
            total = 0.0
            for y in range(side):
                for x in range(side):
                    cell = [logits[y * block + i][x * block + j] for i in range(block) for j in range(block)]
                    weight = 1 / (1 + math.exp(-sum(cell) / len(cell)))
                    total += max(picture[channel][y][x], 0) * weight
            seen.append(total / side**2)
        a, f = softmax(sound), softmax(seen)
        terms.append(sum(p * (math.log(p) - math.log(q)) for p, q in zip(a, f, strict=True)))
    return sum(terms) / len(terms)


def test_each_frame_has_the_mean_over_the_scales():
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 8, dtype=torch.float64)
    maps = [torch.randn(3, 4, side, side, dtype=torch.float64) for side in (4, 2)]
    heard = [torch.randn(3, 4, dtype=torch.float64) for _ in maps]
    got = matching_divergence(logits, maps, heard)
    expected = [
        plainly(logits[f].tolist(), [m[f].tolist() for m in maps], [h[f].tolist() for h in heard]) for f in range(3)
    ]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_it_is_zero_where_picture_and_sound_agree():
    maps = [torch.ones(1, 4, 2, 2, dtype=torch.float64)]
    heard = [torch.full((1, 4), 3.0, dtype=torch.float64)]
    assert matching_divergence(torch.zeros(1, 4, 4, dtype=torch.float64), maps, heard).abs().item() < 1e-12
