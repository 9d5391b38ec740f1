"""The klt codecs as they declare themselves, and their codes against an encoder in float64 that loops."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.errors import StoreError, TokensError
from mettle_cache.klt_tokens import BITS
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODES, encode_layers, get_codec
from mettle_cache.store.format.klt import KltCodec

NAMES = ("klt2", "klt1.5", "klt1.32", "klt1.25", "klt0")


def layer_of(grid, width, cell=1, classes=0):
    tokens = grid[0] * grid[1] + classes
    return LayerSpec(modality="visual", stage=1, block=1, grid=grid, tokens=tokens, width=width, cell=cell)


def random_tokens(layer, frames, seed):
    """Frames ``[T, N, D]`` whose components fall off, about a mean of their own."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(layer.width, layer.width, generator=random) * torch.logspace(0, -1.5, layer.width).unsqueeze(-1)
    means = torch.randn(frames, 1, layer.width, generator=random)
    return (means + torch.randn(frames, layer.tokens, layer.width, generator=random)) @ mix * 3 + 1


def static_of(codec, layer, frames=6, seed=7):
    pilot = codec.pilot([layer])
    pilot.add({layer.name: random_tokens(layer, frames, seed)})
    return pilot.finish()


def encode(codec, layer, x, static):
    return encode_layers({layer.name: x}, codec, [layer], static)[layer.name]


def encode_slowly(layer, x, static):
    """One frame ``[N, D]``: how far each component is along its steps, ``[R, M]``, with rest, norm and x."""
    basis, step = static["basis"].double().numpy(), static["step"].double().numpy()
    bits = static["bits"].tolist()
    x = x.double().numpy()
    mean = x.mean(-1)
    deviation = np.sqrt(((x - mean[:, None]) ** 2).mean(-1) + 1e-5)
    mean, deviation = (a.astype(np.float16).astype(np.float64) for a in (mean, deviation))
    normalised = (x - mean[:, None]) / deviation[:, None]
    centred = normalised - normalised.mean(0)
    across, side = layer.grid[1] // layer.cell, layer.cell
    positions, decoded = [], np.zeros_like(x)
    for cell in range(layer.tokens // side**2):
        row, column = divmod(cell, across)
        members = [
            (row * side + i) * layer.grid[1] + column * side + j if side > 1 else cell
            for i in range(side)
            for j in range(side)
        ]
        vector = np.concatenate([centred[n] for n in members])
        found, value = [], np.zeros_like(vector)
        for m, number in enumerate(bits):
            if number:
                found.append(vector @ basis[:, m] / step[m])
                code = min(max(np.floor(found[-1]) + 2 ** (number - 1), 0), 2**number - 1)
                value += step[m] * (code - (2**number - 1) / 2) * basis[:, m]
        positions.append(found)
        for place, n in enumerate(members):
            decoded[n] = value[place * layer.width : (place + 1) * layer.width]
    rest = (normalised - decoded).mean(0)
    return np.array(positions), rest, np.stack([mean, deviation], -1), normalised


@pytest.mark.parametrize("layer", [layer_of((3, 2), 16, classes=1), layer_of((2, 4), 12, cell=2)])
@pytest.mark.parametrize("rate", [1.25, 4])
def test_codes_are_those_of_an_encoder_that_loops(layer, rate):
    codec = KltCodec("klt", rate, shifted=True)
    static = static_of(codec, layer)
    x = random_tokens(layer, 2, seed=1)
    tokens = encode(codec, layer, x, static)
    bits = [number for number, count in zip(BITS, tokens.format.planes, strict=True) for _ in range(count)]
    for frame in range(2):
        positions, rest, norm, normalised = encode_slowly(layer, x[frame], static[layer.name])
        codes = tokens.format.unpack(tokens.codes[frame]).numpy()
        halves = np.array([2 ** (number - 1) for number in bits])
        expected = np.clip(np.floor(positions) + halves, 0, 2 * halves - 1)
        # a value that lies on the edge of a step may fall to either side of it
        edge = np.abs(positions - np.round(positions)) < 1e-3
        assert (codes == expected)[~edge].all()
        assert edge.mean() < 0.1
        assert (np.abs(codes - expected) <= 1).all()
        if (codes == expected).all():
            np.testing.assert_allclose(tokens.parts["norm"][frame].double(), norm, rtol=1e-3)
            np.testing.assert_allclose(tokens.parts["rest"][frame].double(), rest, atol=2e-3)
        mean = tokens.normalised(torch.float64)[frame].mean(0).numpy()
        np.testing.assert_allclose(mean, normalised.mean(0), atol=2e-3)
        raw = tokens.floats(torch.float64)[frame].mean(0).numpy()
        np.testing.assert_allclose(raw, x[frame].double().mean(0).numpy(), atol=2e-3)


@st.composite
def layers(draw):
    cell = draw(st.sampled_from([1, 2]))
    grid = (cell * draw(st.integers(1, 3)), cell * draw(st.integers(1, 3)))
    return layer_of(grid, draw(st.integers(1, 20)), cell, classes=draw(st.integers(0, 1)) if cell == 1 else 0)


@settings(max_examples=60)
@given(
    layers(),
    st.sampled_from([0, 0.3, 1.25, 1.5, 2, 3, 6, 8]),
    st.sampled_from([1e-4, 1.0, 300.0, 15_000.0]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_the_mean_of_normalised_tokens_is_exact_whatever_the_codes(layer, rate, scale, shifted, seed):
    codec = KltCodec("klt", rate, shifted)
    static = static_of(codec, layer, frames=seed % 3, seed=seed)
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(2, layer.tokens, layer.width, generator=random).clamp(-4, 4) * scale).half().float()
    tokens = encode(codec, layer, x, static)
    assert tokens.codes.shape == codec.arrays([layer], 2)[0].shape
    assert not tokens.codes[..., tokens.format.row_bytes :].any()
    norm = tokens.parts["norm"].double()
    exact = ((x.double() - norm[..., :1]) / norm[..., 1:]).mean(1)
    decoded = tokens.normalised(torch.float64).mean(1)
    rest = tokens.parts["rest"].double().abs()
    assert ((decoded - exact).abs() <= rest * 2**-11 + 1e-5 * exact.abs().amax().clamp(min=1)).all()
    if shifted:
        tolerance = 2**-10 * x.abs().amax() + 1e-5
        assert ((tokens.floats(torch.float64).mean(1) - x.double().mean(1)).abs() <= tolerance).all()


@pytest.mark.parametrize("cell", [1, 2])
def test_bytes_depend_on_the_frame_alone(cell):
    """Not on the batch, its axes, the number of threads or memory that is not contiguous."""
    layer, codec = layer_of((6, 6), 64, cell), get_codec("klt1.5")
    static = static_of(codec, layer)
    x = random_tokens(layer, 6, seed=2)
    whole = encode(codec, layer, x, static)
    shuffled = encode(codec, layer, x.flip(0).mT.contiguous().mT, static)
    batched = encode(codec, layer, x.unflatten(0, (2, 3)), static)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = encode(codec, layer, x, static)
    finally:
        torch.set_num_threads(threads)
    for name in (CODES, "norm", "rest"):
        first, second, third, fourth = (
            t.codes if name == CODES else t.parts[name] for t in (whole, shuffled, batched, threaded)
        )
        assert torch.equal(second.flip(0), first)
        assert torch.equal(third.flatten(0, 1), first)
        assert torch.equal(fourth, first)


def test_more_bits_leave_a_smaller_error_until_little_is_left():
    layer = layer_of((5, 5), 32)
    x = random_tokens(layer, 4, seed=7)
    errors = []
    for rate in (0, 0.5, 1.25, 1.5, 2, 4, 8):
        codec = KltCodec("klt", rate)
        decoded = encode(codec, layer, x, static_of(codec, layer)).normalised()
        exact = torch.nn.functional.layer_norm(x, x.shape[-1:])
        errors.append(float((decoded - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.5
    assert errors[-1] < 0.01


@pytest.mark.parametrize(("name", "rate"), [("klt2", 2), ("klt1.5", 1.5), ("klt1.32", 1.32), ("klt1.25", 1.25)])
@pytest.mark.parametrize("width", [24, 40, 96, 112, 192, 384, 768, 1536])
@pytest.mark.parametrize("cell", [1, 2])
def test_a_row_takes_the_codecs_bits_a_value(name, rate, width, cell):
    layer = layer_of((2, 2), width, cell)
    codes, norm, rest, *static = get_codec(name).arrays([layer], segments=3)
    square = width * cell**2
    assert codes.shape == (3, 4 // cell**2, int(np.floor(rate * square / 8 + 0.5)))
    assert (norm.shape, rest.shape) == ((3, 4, 2), (3, width))
    assert [(array.part, array.dtype, array.shape) for array in static] == [
        ("basis", "float16", (square, square)),
        ("step", "float32", (square,)),
        ("bits", "uint8", (square,)),
    ]
    assert all(array.static for array in static)
    assert not any(array.static for array in (codes, norm, rest))


# Swin-V2-L at 192 pixels and HTS-AT: blocks, side of the grid, channels of each stage
FULL = ((2, 48, 192), (2, 24, 384), (18, 12, 768), (2, 6, 1536), (2, 64, 96), (2, 32, 192), (6, 16, 384), (2, 8, 768))
# bytes of a clip's codes; beside them norms of four bytes a token and rests of two a channel
CODE_BYTES = {"klt2": 13_240_320, "klt1.5": 9_930_240, "klt1.32": 8_770_640, "klt1.25": 8_275_200, "klt0": 0}
NORMS, RESTS = 813_120, 449_280


def clip_bytes(codec, static=False):
    total = 0
    for blocks, side, width in FULL:
        for array in codec.arrays([layer_of((side, side), width)], segments=10):
            item = {"uint8": 1, "float16": 2, "float32": 4}[array.dtype]
            total += blocks * item * int(np.prod(array.shape)) * (array.static == static)
    return total


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_takes_the_bytes_that_the_documentation_says(name):
    codec = get_codec(name)
    exact = CODE_BYTES[name] + NORMS + RESTS
    assert clip_bytes(codec) == exact
    assert clip_bytes(replace(codec, shifted=True)) == exact + RESTS
    if name != "klt0":
        assert clip_bytes(codec, static=True) == 35_833_536
    text = (Path(__file__).parents[3] / "docs" / "codecs.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \| [\d.]+ \|(.*)\|", text, flags=re.MULTILINE)
    bits, size, shifted, ave = (cell.split()[0] for cell in row.split("|")[:4])
    values = sum(10 * blocks * side**2 * width for blocks, side, width in FULL)
    assert bits == f"{exact * 8 / values:.2f}"
    assert (size, shifted) == (f"{exact / 1e6:.1f}", f"{(exact + RESTS) / 1e6:.1f}")
    assert ave == f"{exact * 4097 / 1e9:.0f}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [layer_of((2, 2), 24, cell=2), layer_of((3, 3), 40), layer_of((1, 1), 6, classes=1)])
def test_what_is_encoded_has_the_format_and_the_arrays_that_are_declared(name, layer):
    codec = get_codec(name)
    static = static_of(codec, layer)
    tokens = encode(codec, layer, random_tokens(layer, 2, 3), static)
    assert tokens.format == codec.format(layer, static[layer.name])
    arrays = {CODES: tokens.codes, **tokens.parts, **tokens.static}
    declared = {array.part: (f"torch.{array.dtype}", array.shape) for array in codec.arrays([layer], segments=2)}
    assert {part: (str(array.dtype), tuple(array.shape)) for part, array in arrays.items()} == declared
    assert tokens.format.row_bytes == tokens.codes.shape[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_values_that_cannot_be_stored_are_refused_with_the_layers_name(value):
    layer, codec = layer_of((2, 2), 8), get_codec("klt1.5")
    x = torch.ones(2, 4, 8)
    x[1, 2, 3] = value
    with pytest.raises(TokensError, match=r"layer visual/s1b01: values from .* codec klt1\.5 takes finite values"):
        encode(codec, layer, x, static_of(codec, layer))


def test_a_layer_that_is_not_in_the_table_is_refused():
    layer, codec = layer_of((2, 2), 8), get_codec("klt1.5")
    with pytest.raises(StoreError, match=r"codec klt1\.5 needs the layer table's rows of visual/s1b01"):
        encode_layers({layer.name: torch.ones(1, 4, 8)}, codec, [], static_of(codec, layer))


@pytest.mark.parametrize("bits", [[1] * 8 + [2] * 8, [1] * 7 + [0] * 9, [3] * 8 + [0] * 8, [8] * 16])
def test_bits_that_no_pilot_gives_are_refused(bits):
    layer, codec = layer_of((2, 2), 16), get_codec("klt1.5")
    static = {**static_of(codec, layer)[layer.name], "bits": torch.tensor(bits, dtype=torch.uint8)}
    with pytest.raises(StoreError, match="layer visual/s1b01: its static array bits does not fill rows of 3 bytes"):
        codec.format(layer, static)


def test_cells_change_the_rows_and_not_what_they_mean():
    """A basis that keeps the places of a cell apart decodes to the same tokens as single tokens do."""
    single, cells = layer_of((2, 2), 16), layer_of((2, 2), 16, cell=2)
    codec = KltCodec("klt", 2)
    static = static_of(codec, single)[single.name]
    kept = int((static["bits"] > 0).sum())
    order = [place * kept + m for m in range(kept) for place in range(4)]
    basis = torch.block_diag(*[static["basis"][:, :kept].float()] * 4)[:, order].half()
    wide = {
        "basis": torch.nn.functional.pad(basis, (0, 64 - 4 * kept)),
        "step": torch.nn.functional.pad(static["step"][:kept].repeat_interleave(4), (0, 64 - 4 * kept)),
        "bits": torch.nn.functional.pad(static["bits"][:kept].repeat_interleave(4), (0, 64 - 4 * kept)),
    }
    x = random_tokens(single, 2, 4)
    expected = encode(codec, single, x, {single.name: static}).normalised()
    decoded = encode(replace(codec), cells, x, {cells.name: wide}).normalised()
    assert torch.allclose(decoded, expected, atol=1e-3)
