"""The format of klt tokens: packing, cells, and decoding against a loop over components in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.klt_tokens import BITS, KltFormat
from mettle_cache.tokens import LayerTokens

FRAMES = (2, 3)


def random_tokens(form, seed=0):
    random = torch.Generator().manual_seed(seed)
    rows, square = form.count // form.places, form.width * form.places
    codes = [
        torch.randint(0, 2**bits, (*FRAMES, rows, number), generator=random)
        for number, bits in zip(form.planes, BITS, strict=True)
    ]
    parts = {"norm": torch.rand(*FRAMES, form.count, 2, generator=random).half() + 0.5}
    parts |= {name: torch.randn(*FRAMES, form.width, generator=random).half() for name in form.parts[1:]}
    static = {
        "basis": torch.randn(square, square, generator=random).half(),
        "step": torch.rand(square, generator=random),
        "bits": torch.zeros(square, dtype=torch.uint8),
    }
    return LayerTokens(form.pack(torch.cat(codes, -1)), form, parts, static), torch.cat(codes, -1)


@st.composite
def formats(draw):
    cell = draw(st.sampled_from([1, 2]))
    width = draw(st.sampled_from([8, 24]))
    grid = (2 * draw(st.integers(1, 2)), 2 * draw(st.integers(1, 3)))
    room = width * cell * cell // 8
    planes = []
    for _ in BITS:
        planes.append(draw(st.integers(0, room)))
        room -= planes[-1]
    return KltFormat(
        width, grid, grid[0] * grid[1], tuple(8 * number for number in planes), cell, shifted=draw(st.booleans())
    )


@given(formats())
def test_packing_is_undone(form):
    tokens, codes = random_tokens(form)
    assert tokens.codes.shape[-1] == form.row_bytes
    assert torch.equal(form.unpack(tokens.codes).long(), codes)


def decode_slowly(form, tokens, codes, frame):
    """Token by token and component by component."""
    step, basis = tokens.static["step"].double().numpy(), tokens.static["basis"].double().numpy()
    half = [(2**bits - 1) / 2 for number, bits in zip(form.planes, BITS, strict=True) for _ in range(number)]
    across = form.grid[1] // form.cell
    decoded = np.tile(tokens.parts["rest"][frame].double().numpy(), (form.count, 1))
    for n in range(form.count):
        row, column = divmod(n, form.grid[1])
        cell = (row // form.cell) * across + column // form.cell
        place = (row % form.cell) * form.cell + column % form.cell
        for m in range(form.components):
            value = step[m] * (int(codes[frame][cell, m]) - half[m])
            decoded[n] += value * basis[place * form.width : (place + 1) * form.width, m]
    return decoded


@pytest.mark.parametrize("cell", [1, 2])
@pytest.mark.parametrize("shifted", [False, True])
def test_tokens_decode_component_by_component(cell, shifted):
    form = KltFormat(16, (2, 4), 8, (8, 0, 8, 0), cell, shifted)
    tokens, codes = random_tokens(form)
    normalised, raw = tokens.normalised(torch.float64), tokens.floats(torch.float64)
    for frame in np.ndindex(FRAMES):
        expected = decode_slowly(form, tokens, codes, frame)
        np.testing.assert_allclose(normalised[frame].numpy(), expected, atol=1e-12)
        norm = tokens.parts["norm"][frame].double().numpy()
        expected = norm[:, :1] + norm[:, 1:] * expected
        if shifted:
            expected = expected + tokens.parts["shift"][frame].double().numpy()
        np.testing.assert_allclose(raw[frame].numpy(), expected, atol=1e-12)


def test_without_components_every_token_is_the_rest():
    form = KltFormat(16, (2, 2), 4, (0, 0, 0, 0))
    tokens, _ = random_tokens(form)
    assert tokens.codes.shape[-1] == 0
    assert torch.equal(tokens.normalised(), tokens.parts["rest"].float().unsqueeze(-2).expand(*FRAMES, 4, 16))
