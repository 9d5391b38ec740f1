"""A klt store of format 2 is read for ever, and means what FORMAT.md says.

``golden/v2/klt1.5.zarr`` was made once by :func:`make_golden` of arrays that follow a formula: neither pilot nor
encoder of today is the oracle. What it decodes to is computed here by a loop over the words of FORMAT.md, section 5.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.klt_tokens import KltFormat
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import LayerTokens

PATH = Path(__file__).parent / "golden" / "v2" / "klt1.5.zarr"
# with a class token; and one whose cells of 2 x 2 tokens are rows
FLAT = LayerSpec(modality="visual", stage=1, block=1, grid=(2, 2), tokens=5, width=24)
CELLS = LayerSpec(modality="visual", stage=2, block=1, grid=(2, 4), tokens=8, width=8, cell=2)
LAYERS = (FLAT, CELLS)
# bits of the components: 24 * 1.5 bits fill 5 bytes, 32 * 1.5 fill 6
BITS = {FLAT.name: [4] * 8 + [0] * 16, CELLS.name: [4] * 8 + [2] * 8 + [0] * 16}
ROW_BYTES = {FLAT.name: 5, CELLS.name: 6}
CLIPS = ("a", "lost", "b")
SEGMENTS = 2


def ramp(seed, *shape):
    return (np.arange(np.prod(shape)).reshape(shape) * 7 + seed * 31) % 251


def static_of(layer):
    square, columns = layer.width * layer.cell**2, len(BITS[layer.name])
    basis = ((ramp(layer.stage, square, columns) - 125) / 256).astype(np.float16)
    step = (2.0 ** -(np.arange(columns) % 5)).astype(np.float32)
    return {"basis": basis, "step": step, "bits": np.array(BITS[layer.name], np.uint8)}


def arrays_of(layer, clip):
    rows = layer.tokens // layer.cell**2
    codes = ramp(clip + layer.stage, SEGMENTS, rows, ROW_BYTES[layer.name]).astype(np.uint8)
    filled = sum(BITS[layer.name]) // 8
    codes[..., filled:] = 0
    norm = 0.25 + ramp(clip + 5, SEGMENTS, layer.tokens, 2) / 64
    rest = ramp(clip + 9, SEGMENTS, layer.width) / 32 - 4
    return {"codes": codes, "norm": norm.astype(np.float16), "rest": rest.astype(np.float16)}


def make_golden(path):
    """Run once, never again: what is committed is the specification."""
    static = {layer.name: {part: torch.from_numpy(a) for part, a in static_of(layer).items()} for layer in LAYERS}
    spec = StoreSpec(
        dataset="golden",
        segments=SEGMENTS,
        layers=LAYERS,
        codec="klt1.5",
        clips=CLIPS,
        clips_per_shard=2,
        samples=pa.table({"row": [0, 1], "clip": ["a", "b"], "split": ["train", "test"]}),
        vocabulary={"categories": ["Bark"]},
        key={"visual": {"weights": "0123"}},
        provenance={"command": "mettle extract"},
        static=static,
    )
    forms = {
        FLAT.name: KltFormat(24, FLAT.grid, 5, (0, 8, 0, 0)),
        CELLS.name: KltFormat(8, CELLS.grid, 8, (0, 8, 8, 0), cell=2),
    }
    with StoreWriter.create_or_resume(path, spec) as writer:
        writer.pending()
        for clip in (0, 2):
            tokens = {}
            for layer in LAYERS:
                codes, *parts = (torch.from_numpy(a) for a in arrays_of(layer, clip).values())
                named = dict(zip(("norm", "rest"), parts, strict=True))
                tokens[layer.name] = LayerTokens(codes, forms[layer.name], named, static[layer.name])
            writer.write_clip(clip, tokens, source=f"{clip:032x}")
        writer.fail_clip(1, "cannot be decoded", None)
        writer.finish()


def decode(layer, clip, segment):
    """Normalised tokens ``[N, D]`` of a segment, component by component."""
    static, arrays = static_of(layer), arrays_of(layer, clip)
    across = layer.grid[1] // layer.cell
    decoded = np.empty((layer.tokens, layer.width))
    for token in range(layer.tokens):
        row, place = token, 0
        if layer.cell > 1:
            down, right = divmod(token, layer.grid[1])
            row = down // layer.cell * across + right // layer.cell
            place = down % layer.cell * layer.cell + right % layer.cell
        decoded[token] = arrays["rest"][segment]
        start = 0
        for bits in (8, 4, 2, 1):
            members = [number for number, own in enumerate(BITS[layer.name]) if own == bits]
            apart = len(members) * bits // 8
            for index, number in enumerate(members):
                byte = int(arrays["codes"][segment, row, start + index % apart])
                code = byte >> index // apart * bits & (1 << bits) - 1
                component = static["basis"][place * layer.width : (place + 1) * layer.width, number].astype(float)
                decoded[token] += (code - (2**bits - 1) / 2) * float(static["step"][number]) * component
            start += apart
    return decoded


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_what_was_written_is_read(layer):
    with TokenStore.open(PATH, check="always") as store:
        assert (store.codec, store.layers, store.failed) == ("klt1.5", LAYERS, {"lost": "cannot be decoded"})
        batch = store.read([2, 0])
    for slot, clip in enumerate((2, 0)):
        tokens, expected = batch.layers[layer.name][slot], arrays_of(layer, clip)
        for part, array in (("codes", tokens.codes), *tokens.parts.items()):
            np.testing.assert_array_equal(array.numpy(), expected[part], err_msg=part)
        for part, array in tokens.static.items():
            np.testing.assert_array_equal(array.numpy(), static_of(layer)[part], err_msg=part)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_it_means_what_the_format_says(layer):
    with TokenStore.open(PATH) as store:
        tokens = store["b"][layer.name]
    for segment in range(SEGMENTS):
        expected = decode(layer, 2, segment)
        np.testing.assert_allclose(tokens.normalised(torch.float64)[segment].numpy(), expected, atol=1e-12)
        mu, sigma = np.moveaxis(arrays_of(layer, 2)["norm"][segment].astype(float), -1, 0)[..., None]
        np.testing.assert_allclose(tokens.floats(torch.float64)[segment].numpy(), mu + sigma * expected, atol=1e-11)


def test_it_verifies():
    assert verify_store(PATH, deep=True).ok
