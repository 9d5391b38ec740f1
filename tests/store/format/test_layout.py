"""The layout against zarr-python: metadata and shards byte for byte."""

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.digests import crc32c
from mettle_cache.store.format.layout import (
    RECORDS,
    bytes_per_clip,
    clip_layout,
    default_clips_per_shard,
    group_json,
    shard_files,
    store_layout,
)
from mettle_cache.store.writing.shards import stored_arrays
from tests.store.tiny import CODECS, LAYERS, SEGMENTS, clip_tokens, make_spec, write_store


@pytest.fixture(params=CODECS)
def codec(request):
    return request.param


def zarr_array(group, array):
    """The same array, made by zarr-python."""
    return group.create_array(
        array.name,
        shape=(array.clips, array.blocks, array.chunk_bytes),
        shards=(array.clips_each, array.blocks, array.chunk_bytes),
        chunks=(1, 1, array.chunk_bytes),
        dtype="uint8",
        filters=None,
        compressors=zarr.codecs.Crc32cCodec(),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["clip", "block", "byte"],
        config={"write_empty_chunks": True},
    )


def layout_of(codec, clips, each):
    return store_layout(LAYERS, SEGMENTS, get_codec(codec), clips=clips, clips_each=each)


def test_metadata_are_byte_for_byte_what_zarr_python_writes(tmp_path, codec):
    group = zarr.create_group(tmp_path / "theirs.zarr")
    for array in layout_of(codec, 3, 2):
        zarr_array(group, array)
        assert (tmp_path / "theirs.zarr" / array.name / "zarr.json").read_bytes() == array.zarr_json()
    assert (tmp_path / "theirs.zarr" / "visual" / "zarr.json").read_bytes() == group_json({})


def chunk_bytes(tokens, array, layer):
    """A chunk by hand: the codec's fields one after another."""
    return b"".join(stored_arrays(tokens[layer.name])[field.part].numpy().tobytes() for field in array.fields)


@pytest.mark.parametrize(("clips", "each"), [(2, 1), (4, 2), (5, 3)])
def test_chunks_are_what_zarr_python_reads_and_lie_where_the_layout_says(tmp_path, codec, clips, each):
    write_store(tmp_path / "s.zarr", make_spec(codec, clips=clips, clips_per_shard=each))
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for array in layout_of(codec, clips, each):
        for clip in range(clips):
            data = (tmp_path / "s.zarr" / array.shard_path(array.shard(clip))).read_bytes()
            assert len(data) == array.shard_bytes(array.shard(clip))
            for block, layer in enumerate(array.layers):
                expected = chunk_bytes(clip_tokens(clip, codec), array, layer)
                assert group[array.name][clip, block].tobytes() == expected
                start = array.chunk_offset(clip, block)
                checksum = google_crc32c.value(expected).to_bytes(4, "little")
                assert data[start : start + len(expected) + 4] == expected + checksum


def test_a_shard_of_one_clip_is_byte_for_byte_what_zarr_python_writes(tmp_path, codec):
    """With several, zarr-python leaves the order of chunks in a shard to itself; an index may name any."""
    write_store(tmp_path / "ours.zarr", make_spec(codec, clips=2, clips_per_shard=1))
    group = zarr.create_group(tmp_path / "theirs.zarr")
    for array in layout_of(codec, 2, 1):
        theirs = zarr_array(group, array)
        for clip in range(2):
            chunks = [chunk_bytes(clip_tokens(clip, codec), array, layer) for layer in array.layers]
            theirs[clip] = np.stack([np.frombuffer(chunk, np.uint8) for chunk in chunks])
            path = array.shard_path(clip)
            assert (tmp_path / "ours.zarr" / path).read_bytes() == (tmp_path / "theirs.zarr" / path).read_bytes()


def test_a_failed_clip_is_zarr_s_empty_entry(tmp_path, codec):
    spec = make_spec(codec, clips=5, clips_per_shard=3)
    write_store(tmp_path / "s.zarr", spec, failed=[1, 3, 4])
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for array in layout_of(codec, 5, 3):
        whole = group[array.name][:]
        assert not whole[[1, 3, 4]].any()
        assert whole[0, 0].tobytes() == chunk_bytes(clip_tokens(0, codec), array, array.layers[0])
        assert whole[2, 0].tobytes() == chunk_bytes(clip_tokens(2, codec), array, array.layers[0])
        # of a shard in which every clip has failed there is no file
        assert not (tmp_path / "s.zarr" / array.shard_path(1)).exists()
        index = np.frombuffer(array.index(0, {0, 2})[:-4], "<u8").reshape(3, array.blocks, 2)
        assert (index[1] == 2**64 - 1).all()
        assert index[2, 0].tolist() == [array.chunk_offset(2, 0), array.chunk_bytes + 4]


def test_a_layer_selection_leaves_the_other_blocks_out(tmp_path):
    chosen = tuple(layer for layer in LAYERS if layer.name in ("visual/s2b01", "visual/s2b03", "audio/s1b01"))
    write_store(tmp_path / "a.zarr", make_spec(layers=chosen))
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group["visual/s2"].shape[1] == 2
    assert "visual/s1" not in group
    tokens = clip_tokens(1)["visual/s2b03"]
    codes = group["visual/s2"][1, 1, : tokens.codes.numel()].view(np.int8)
    np.testing.assert_array_equal(codes, tokens.codes.numpy().ravel())


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
    write_store(path, make_spec(codec, layers=layers, clips_per_shard=1))
    bill = bytes_per_clip(layers, SEGMENTS, get_codec(codec))
    records = bill.pop(RECORDS)
    indexes = sum(array.index_bytes for array in clip_layout(layers, SEGMENTS, get_codec(codec)))
    assert sum(file.stat().st_size for file in path.rglob("c.2.*")) == sum(bill.values()) + indexes
    manifest_row = (path / "manifest.parquet").stat().st_size / 4
    assert (path / "commits" / "00000003.jsonl").stat().st_size + manifest_row + indexes <= records + 1024
    files = [file for file in path.rglob("*") if file.name.startswith("c.") or file.name.endswith(".jsonl")]
    assert len(files) == shard_files(layers, SEGMENTS, get_codec(codec), clips=4, clips_each=1)


@pytest.mark.parametrize(("codec", "megabytes"), [("float16", 105.9), ("int8", 53.9), ("int4", 27.4)])
def test_the_full_layer_set_costs_what_the_design_says(codec, megabytes):
    nbytes = sum(bytes_per_clip(SWIN_AND_HTSAT, 10, get_codec(codec)).values())
    assert nbytes / 1e6 == pytest.approx(megabytes, abs=0.06)


@pytest.mark.parametrize(("codec", "files"), [("float16", 4617), ("int8", 2313), ("int4", 1161)])
def test_the_files_of_ave(codec, files):
    stored = (SWIN_AND_HTSAT, 10, get_codec(codec))
    each = default_clips_per_shard(*stored, 4097)
    assert shard_files(*stored, clips=4097, clips_each=each) == files


@given(clips=st.integers(1, 1 << 21), tokens=st.integers(1, 5000), width=st.sampled_from([1, 8, 768, 1536]))
def test_a_shard_holds_as_many_clips_as_the_rule_says(clips, tokens, width):
    layer = LayerSpec(modality="visual", stage=1, block=1, grid=(1, tokens), tokens=tokens, width=width)
    stored = ((layer,), 10, get_codec("int8"))
    clip_bytes = sum(array.clip_bytes for array in clip_layout(*stored))

    def fits(each):
        return each <= 4096 and each * clip_bytes <= 1 << 30 and -(-clips // each) >= min(16, clips)

    each = default_clips_per_shard(*stored, clips)
    assert each & (each - 1) == 0
    assert fits(each) or each == 1
    assert not fits(2 * each)
