"""A store is plain zarr v3: zarr-python, zarrs and tensorstore read the same values."""

import numpy as np
import pytest
import zarr

from tests.store.tiny import CODECS, LAYERS, clip_tokens, make_spec, write_store


@pytest.fixture(params=CODECS)
def stored(request, tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(request.param))
    return path, request.param


def arrays_of(codec):
    """Array name, its part and its layers."""
    for array in dict.fromkeys(layer.array for layer in LAYERS):
        layers = [layer for layer in LAYERS if layer.array == array]
        yield array, "codes", layers
        if codec != "float16":
            yield f"{array}_scale", "scale", layers
            yield f"{array}_zero", "zero", layers


def assert_same(read, codec):
    for array, part, layers in arrays_of(codec):
        for clip in (0, 3):
            expected = np.stack([getattr(clip_tokens(clip, codec)[layer.name], part).numpy() for layer in layers])
            np.testing.assert_array_equal(np.asarray(read(array)[clip]), expected)


def test_zarr_python(stored):
    path, codec = stored
    group = zarr.open_group(path, mode="r")
    assert group.attrs["mettle"]["format"] == 1
    assert_same(lambda array: group[array], codec)


def test_zarrs(stored):
    pytest.importorskip("zarrs", reason="pip install zarrs (it is in the dev extra)")
    path, codec = stored
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(path, mode="r")
        assert_same(lambda array: group[array], codec)


def test_tensorstore(stored):
    ts = pytest.importorskip("tensorstore", reason="pip install tensorstore (it is in the dev extra)")
    path, codec = stored

    def open_array(array):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / array)}}
        opened = ts.open(spec, read=True).result()
        return {clip: opened[clip].read().result() for clip in (0, 3)}

    assert_same(open_array, codec)
