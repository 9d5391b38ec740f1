"""The layout against zarr-python: metadata and shards byte for byte, and other zarr readers on our files."""

import hashlib
import json
import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from tests.store.tiny import LAYERS, SEGMENTS, clip_tokens, make_spec, write_store

from mettle_cache.store.codecs import CODECS, get_codec
from mettle_cache.store.layout import crc32c, group_json, store_layout


@pytest.fixture(params=CODECS)
def codec(request):
    return request.param


def zarr_array(group, array, clips):
    """The same array, made by zarr-python."""
    return group.create_array(
        array.name,
        shape=(clips, array.blocks, *array.chunk_shape),
        shards=(1, array.blocks, *array.chunk_shape),
        chunks=(1, 1, *array.chunk_shape),
        dtype=array.dtype,
        filters=None,
        compressors=zarr.codecs.Crc32cCodec(),
        fill_value=float("nan") if array.dtype == "float16" else 0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["clip", "block", "segment", *(["token"] if len(array.chunk_shape) == 3 else []), "channel"],
        config={"write_empty_chunks": True},
    )


def test_metadata_are_byte_for_byte_what_zarr_python_writes(tmp_path, codec):
    group = zarr.create_group(tmp_path / "theirs.zarr")
    for array in store_layout(LAYERS, SEGMENTS, get_codec(codec)):
        zarr_array(group, array, clips=3)
        assert (tmp_path / "theirs.zarr" / array.name / "zarr.json").read_bytes() == array.zarr_json(3)
    assert (tmp_path / "theirs.zarr" / "visual" / "zarr.json").read_bytes() == group_json({})


def test_shards_are_byte_for_byte_what_zarr_python_writes(tmp_path, codec):
    write_store(tmp_path / "ours.zarr", make_spec(codec, clips=2))
    group = zarr.create_group(tmp_path / "theirs.zarr")
    for array in store_layout(LAYERS, SEGMENTS, get_codec(codec)):
        theirs = zarr_array(group, array, clips=2)
        for clip in range(2):
            tokens = clip_tokens(clip, codec)
            parts = [getattr(tokens[layer.name], array.part).numpy() for layer in array.layers]
            theirs[clip] = np.stack(parts)
            path = array.shard_path(clip)
            assert (tmp_path / "ours.zarr" / path).read_bytes() == (tmp_path / "theirs.zarr" / path).read_bytes()
            assert (tmp_path / "ours.zarr" / path).stat().st_size == array.shard_bytes


def expected_values(array, clips, codec):
    return np.stack(
        [
            np.stack([getattr(clip_tokens(clip, codec)[layer.name], array.part).numpy() for layer in array.layers])
            for clip in range(clips)
        ]
    )


def test_zarr_python_reads_the_store(tmp_path, codec):
    write_store(tmp_path / "a.zarr", make_spec(codec, clips=2))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for array in store_layout(LAYERS, SEGMENTS, get_codec(codec)):
        np.testing.assert_array_equal(group[array.name][:], expected_values(array, 2, codec))
    assert group.attrs["mettle"]["format"] == 1


def test_tensorstore_reads_the_store(tmp_path, codec):
    write_store(tmp_path / "a.zarr", make_spec(codec, clips=2))
    for array in store_layout(LAYERS, SEGMENTS, get_codec(codec)):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.zarr/{array.name}/"}}
        values = tensorstore.open(spec, read=True).result().read().result()
        np.testing.assert_array_equal(np.asarray(values, array.dtype), expected_values(array, 2, codec))


def test_zarrs_reads_the_store(tmp_path, codec):
    write_store(tmp_path / "a.zarr", make_spec(codec, clips=2))
    layout = store_layout(LAYERS, SEGMENTS, get_codec(codec))
    script = (
        "import sys, json, hashlib, zarr, zarrs\n"
        "zarr.config.set({'codec_pipeline.path': 'zarrs.ZarrsCodecPipeline'})\n"
        "group = zarr.open_group(sys.argv[1], mode='r')\n"
        "print(json.dumps({n: hashlib.md5(group[n][:].tobytes()).hexdigest() for n in sys.argv[2:]}))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.zarr"), *(array.name for array in layout)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    expected = {array.name: hashlib.md5(expected_values(array, 2, codec).tobytes()).hexdigest() for array in layout}
    assert found == expected


def test_a_layer_selection_leaves_the_other_blocks_out(tmp_path):
    chosen = tuple(layer for layer in LAYERS if layer.name in ("visual/s2b01", "visual/s2b03", "audio/s1b01"))
    write_store(tmp_path / "a.zarr", make_spec(layers=chosen))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group["visual/s2"].shape[1] == 2
    assert "visual/s1" not in group
    np.testing.assert_array_equal(group["visual/s2"][1, 1], clip_tokens(1)["visual/s2b03"].codes.numpy())


def test_the_checksum_is_castagnolis():
    data = bytes(range(200))
    assert crc32c(memoryview(b"123456789")) == 0xE3069283
    assert crc32c(memoryview(data)[3:150]) == google_crc32c.value(data[3:150])
