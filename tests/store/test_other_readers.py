"""A store is plain zarr v3: zarr-python, zarrs and tensorstore read the bytes of the chunks as they were encoded."""

import numpy as np
import pytest
import zarr

from mettle_cache.layers import group_by_array
from tests.store.test_golden import GOLDEN, golden_tokens
from tests.store.tiny import CODECS, LAYERS, clip_tokens, make_spec, write_store

CLIPS = 5
LACKING = 3


@pytest.fixture(params=CODECS)
def stored(request, tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(request.param, clips=CLIPS), failed=[LACKING])
    return path, request.param


def chunk(tokens):
    """The bytes of a block: codes, then what goes with them."""
    parts = [tokens.codes, *(tokens.parts[name] for name in tokens.format.parts)]
    return np.frombuffer(b"".join(part.numpy().tobytes() for part in parts), np.uint8)


def assert_same(read, codec):
    """``read`` gives a clip of an array."""
    for array, layers in group_by_array(LAYERS).items():
        for clip in (0, 2, 4):
            expected = np.stack([chunk(clip_tokens(clip, codec)[layer.name]) for layer in layers])
            np.testing.assert_array_equal(np.asarray(read(array, clip)), expected)
        # the entries of a failed clip are empty, although its neighbour in the shard is there
        assert not np.asarray(read(array, LACKING)).any()


def test_zarr_python(stored):
    path, codec = stored
    group = zarr.open_group(path, mode="r")
    assert group.attrs["mettle"]["format"] == 2
    assert_same(lambda array, clip: group[array][clip], codec)


def test_zarrs(stored):
    pytest.importorskip("zarrs", reason="pip install zarrs (it is in the dev extra)")
    path, codec = stored
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(path, mode="r")
        assert_same(lambda array, clip: group[array][clip], codec)


def open_tensorstore(path, array):
    ts = pytest.importorskip("tensorstore", reason="pip install tensorstore (it is in the dev extra)")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / array)}}
    return ts.open(spec, read=True).result()


def test_tensorstore(stored):
    path, codec = stored
    assert_same(lambda array, clip: open_tensorstore(path, array)[clip].read().result(), codec)


@pytest.mark.parametrize("codec", CODECS)
def test_a_store_of_format_1_has_arrays_of_the_codec_s_own_types(codec):
    path = GOLDEN / "v1" / f"{codec}.zarr"
    group = zarr.open_group(path, mode="r")
    tokens = golden_tokens(codec, 1)["visual/s1b02"]
    for suffix, values in {"": tokens.codes, **{f"_{part}": array for part, array in tokens.parts.items()}}.items():
        np.testing.assert_array_equal(group[f"visual/s1{suffix}"][1, 1], values.numpy())
        read = open_tensorstore(path, f"visual/s1{suffix}")[1, 1].read().result()
        np.testing.assert_array_equal(read, values.numpy())
