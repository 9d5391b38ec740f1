"""The layout against zarr-python: metadata and shards byte for byte."""

import google_crc32c
import numpy as np
import pytest
import zarr

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.digests import crc32c
from mettle_cache.store.format.layout import RECORDS, bytes_per_clip, files_per_clip, group_json, store_layout
from tests.store.tiny import CODECS, LAYERS, SEGMENTS, clip_tokens, make_spec, write_store


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


SWIN_AND_HTSAT = tuple(
    LayerSpec(modality=modality, stage=stage, block=block, grid=(rows, rows), tokens=rows * rows, width=width)
    for modality, stages in {
        "visual": [(2, 48, 192), (2, 24, 384), (18, 12, 768), (2, 6, 1536)],
        "audio": [(2, 64, 96), (2, 32, 192), (6, 16, 384), (2, 8, 768)],
    }.items()
    for stage, (blocks, rows, width) in enumerate(stages, start=1)
    for block in range(1, blocks + 1)
)


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[1:3], LAYERS[-1:]])
@pytest.mark.parametrize("codec", CODECS)
def test_the_bill_is_what_is_on_disk(tmp_path, codec, layers):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(codec, layers=layers))
    bill = bytes_per_clip(layers, SEGMENTS, get_codec(codec))
    for array, nbytes in bill.items():
        if array != RECORDS:
            assert [file.stat().st_size for file in (path / array).glob("c.*")] == [nbytes] * 4
    manifest_row = (path / "manifest.parquet").stat().st_size / 4
    assert (path / "commits" / "00000003.json").stat().st_size + manifest_row <= bill[RECORDS] + 1024
    files = [file for file in path.rglob("*") if file.name.startswith("c.2.") or file.name == "00000002.json"]
    assert len(files) == files_per_clip(layers, SEGMENTS, get_codec(codec))


@pytest.mark.parametrize(("codec", "megabytes"), [("float16", 105.9), ("int8", 53.9), ("int4", 27.4)])
def test_the_full_layer_set_costs_what_the_design_says(codec, megabytes):
    nbytes = sum(bytes_per_clip(SWIN_AND_HTSAT, 10, get_codec(codec)).values())
    assert nbytes / 1e6 == pytest.approx(megabytes, abs=0.06)
