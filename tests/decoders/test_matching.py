"""The matching term against its formula, channel by channel."""

import math

import torch

from mettle_cache.decoders.matching import matching_divergence


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
