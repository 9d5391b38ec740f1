"""Guided pooling against its formula, written out cell by cell on decoded tokens."""

import pytest
import torch

from mettle_cache.methods.kernels import reference
from mettle_cache.methods.kernels.guided import Cells, guided_pooling
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.conftest import make_tokens

FRAMES, WIDTH = 5, 16
EVEN, UNEVEN = Cells((4, 6), (2, 3)), Cells((5, 7), (2, 3))


def formula(floats, guide, cells):
    """``[F, N, D]`` and ``[F, n, D]`` to ``[F, n, D]``."""
    (rows, columns), (down, across) = cells.grid, cells.coarse
    grid = floats[:, -rows * columns :].reshape(-1, rows, columns, floats.shape[-1])
    pooled = []
    for i in range(down):
        for j in range(across):
            places = [
                (p, q)
                for p in range(rows)
                for q in range(columns)
                if (p * down // rows, q * across // columns) == (i, j)
            ]
            x = torch.stack([grid[:, p, q] for p, q in places], 1)
            scores = torch.relu((x * guide[:, i * across + j].unsqueeze(1)).sum(-1))
            weights = scores / (scores.abs().sum(1, keepdim=True) + 1e-6) + 1 / len(places)
            pooled.append((weights.unsqueeze(-1) * x).sum(1))
    return torch.stack(pooled, 1)


def make_guide(cells, frames=FRAMES, width=WIDTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(frames, cells.count, width, generator=generator, dtype=torch.float64).requires_grad_()


def compare(tokens, cells):
    guide = make_guide(cells)
    pooled, expected = guided_pooling(tokens, guide, cells), formula(tokens.floats(torch.float64), guide, cells)
    torch.testing.assert_close(pooled, expected, rtol=1e-11, atol=1e-11)
    pulled = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad((output * pulled).sum(), guide)[0] for output in (pooled, expected)]
    scale = gradients[1].abs().max().item()
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11 * scale)


@pytest.mark.parametrize("cells", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_formula(form, cells):
    compare(make_tokens(form, FRAMES, cells.grid[0] * cells.grid[1], WIDTH), cells)


@pytest.mark.parametrize("cells", [Cells((4, 6), (4, 6)), Cells((4, 6), (1, 1)), Cells((3, 5), (3, 2))], ids=str)
def test_cells_of_one_token_and_one_cell_of_all(cells):
    compare(make_tokens("int8", FRAMES, cells.grid[0] * cells.grid[1], WIDTH), cells)


@pytest.mark.parametrize("form", ["int8", "klt"])
def test_class_tokens_are_in_no_cell(form):
    compare(make_tokens(form, FRAMES, 26, WIDTH), EVEN)


def test_a_piece_at_a_time(monkeypatch):
    monkeypatch.setitem(reference.PIECE_BYTES, "cpu", 2 * 24 * WIDTH * 8)
    compare(make_tokens("int4", FRAMES, 24, WIDTH), EVEN)


@pytest.mark.parametrize(("grid", "coarse"), [((4, 6), (2, 3)), ((48, 48), (6, 6)), ((5, 7), (2, 3)), ((7, 9), (4, 9))])
def test_cells_are_what_nearest_neighbours_enlarge(grid, coarse):
    cells = Cells(grid, coarse)
    numbers = torch.arange(cells.count, dtype=torch.float64).view(1, 1, *coarse)
    enlarged = torch.nn.functional.interpolate(numbers, size=grid, mode="nearest").flatten()
    places, own = cells.places(torch.device("cpu"))
    assert sorted(places[own].tolist()) == list(range(grid[0] * grid[1]))
    for cell, (members, inside) in enumerate(zip(places, own, strict=True)):
        assert (enlarged[members[inside]] == cell).all()


def test_a_guide_that_asks_for_nothing_gives_the_mean():
    tokens = make_tokens("float64", FRAMES, 24, WIDTH)
    pooled = guided_pooling(tokens, torch.zeros(FRAMES, 6, WIDTH, dtype=torch.float64), EVEN)
    cells = tokens.codes.view(FRAMES, 2, 2, 3, 2, WIDTH)
    torch.testing.assert_close(pooled, cells.mean((2, 4)).view(FRAMES, 6, WIDTH))


@pytest.mark.parametrize("form", ["int8", "klt"])
def test_memory_is_that_of_a_piece_whatever_the_number_of_frames(form, monkeypatch):
    tokens, cells = make_tokens(form, 12, 256, WIDTH), Cells((16, 16), (2, 2))
    monkeypatch.setitem(reference.PIECE_BYTES, "cpu", 4 * 256 * WIDTH)
    guide = make_guide(cells, frames=12).detach().float().requires_grad_()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        guided_pooling(tokens, guide, cells).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.function_events)
    # one frame's tokens, or its components, twice within an operation, where all are of 12; the guide is small
    assert 0 < largest <= 2 * 4 * 256 * max(WIDTH, 48 if form == "klt" else 0)


def test_nothing_is_kept_but_the_codes_and_the_guide():
    tokens, kept = make_tokens("int8", FRAMES, 24, WIDTH), []
    guide = make_guide(EVEN)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        guided_pooling(tokens, guide, EVEN)
    there = [guide, tokens.codes, *tokens.parts.values()]
    assert {tensor.data_ptr() for tensor in kept} <= {tensor.data_ptr() for tensor in there}


def test_clips_and_segments_keep_their_axes_and_autocast_changes_nothing():
    tokens = make_tokens("int8", 6, 24, WIDTH)
    guide = make_guide(EVEN, frames=6).detach().float()
    expected = guided_pooling(tokens, guide, EVEN)
    clips = tokens.map(lambda part: part.unflatten(0, (2, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = guided_pooling(clips, guide.unflatten(0, (2, 3)), EVEN)
    assert torch.equal(pooled.flatten(0, 1), expected)


def test_codes_and_decoded_tokens_give_the_same():
    guide = make_guide(EVEN)
    for form in ("int8", "int4"):
        tokens = make_tokens(form, FRAMES, 24, WIDTH)
        decoded = LayerTokens(tokens.floats(torch.float64), FLOATS)
        torch.testing.assert_close(
            guided_pooling(tokens, guide, EVEN), guided_pooling(decoded, guide, EVEN), rtol=1e-12, atol=1e-12
        )
