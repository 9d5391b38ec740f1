"""A store as zarr-python sees it: what the reader reads, and nothing that is missing is read as zeros."""

import asyncio
import pickle
from importlib.util import find_spec

import dask.array
import numpy as np
import pytest
import torch
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from mettle_cache.errors import StoreCorruptError, StoreError, StoreUnfinishedError
from mettle_cache.layers import group_by_array
from mettle_cache.store import TokenStore
from mettle_cache.store.format.metadata import load_metadata
from tests.store.test_golden import GOLDEN, golden_tokens
from tests.store.tiny import LAYERS, SEGMENTS, make_spec, write_store

CODEC_NAMES = ("float16", "int8", "int4")
STAGES = group_by_array(LAYERS)


@pytest.fixture(params=CODEC_NAMES)
def codec(request):
    return request.param


@pytest.fixture
def stored(tmp_path, codec):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(codec, clips=4), failed=[1])
    return path


def flip(path, array, clip, block):
    array = next(one for one in load_metadata(path).layout if one.name == array)
    file = path / array.shard_path(array.shard(clip))
    data = bytearray(file.read_bytes())
    data[array.chunk_offset(clip, block)] ^= 4
    file.write_bytes(data)
    return file


def test_the_decoded_view_has_the_floats_of_every_layer(stored, codec):
    store = TokenStore.open(stored)
    group = store.to_zarr(decoded=True)
    assert {name for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)} == set(STAGES)
    expected = store.read([0, 2, 3])
    for name, layers in STAGES.items():
        array = group[name]
        assert array.shape == (4, len(layers), SEGMENTS, layers[0].tokens, layers[0].width)
        assert array.dtype == np.float32
        assert array.chunks == (1, 1, *array.shape[2:])
        assert array.attrs["layers"] == [layer.name for layer in layers]
        for block, layer in enumerate(layers):
            floats = expected.layers[layer.name].floats().numpy()
            np.testing.assert_array_equal(array.oindex[[0, 2, 3], block], floats)
            np.testing.assert_array_equal(array[2, block, 1, :2, ::2], floats[1, 1, :2, ::2])


def test_the_other_view_has_the_bytes_that_are_stored(stored, codec):
    group = TokenStore.open(stored).to_zarr()
    plain = zarr.open_group(stored, mode="r")
    for name in STAGES:
        assert (group[name].shape, group[name].dtype) == (plain[name].shape, plain[name].dtype)
        assert group[name].metadata.dimension_names == plain[name].metadata.dimension_names
        for clip in (0, 2, 3):
            np.testing.assert_array_equal(group[name][clip], plain[name][clip])
    assert group.attrs["mettle"] == plain.attrs["mettle"]


@pytest.mark.parametrize("decoded", [False, True])
def test_nothing_is_read_that_is_not_there(stored, decoded):
    group = TokenStore.open(stored).to_zarr(decoded=decoded)
    with pytest.raises(ValueError, match=r"read.only"):
        group["visual/s2"][0] = 0
    with pytest.raises(StoreError, match="clip clip-1 has no tokens: no such video"):
        group["visual/s2"][:]
    flip(stored, "visual/s2", 2, 1)
    group = TokenStore.open(stored).to_zarr(decoded=decoded)
    with pytest.raises(StoreCorruptError, match=r"clip clip-2, layer visual/s2b02: .*c\.1\.0\.0: "):
        group["visual/s2"][2]
    group["visual/s2"][3]
    (stored / "READY").unlink()
    with pytest.raises(StoreUnfinishedError, match="zarr would read what is missing as zeros"):
        TokenStore.open(stored, allow_unfinished=True).to_zarr(decoded=decoded)


@pytest.mark.parametrize("codec", ["int8"])
def test_dask_reads_the_decoded_view_and_so_does_another_process(stored):
    store = TokenStore.open(stored)
    tokens = store.to_zarr(decoded=True)["visual/s2"]
    means = dask.array.from_zarr(tokens)[2:].mean(axis=(2, 3)).compute(scheduler="threads")
    floats = torch.stack([store.read([2, 3]).layers[layer.name].floats() for layer in STAGES["visual/s2"]], 1)
    np.testing.assert_allclose(means, floats.mean((2, 3)).numpy(), rtol=1e-6)
    there = pickle.loads(pickle.dumps(tokens))  # noqa: S301 - our own bytes
    assert there.store_path.store == tokens.store_path.store
    np.testing.assert_array_equal(there[3], tokens[3])


@pytest.mark.skipif(find_spec("xarray") is None, reason="pip install xarray")
@pytest.mark.parametrize("codec", ["int8"])
def test_xarray_opens_a_modality(stored):
    import xarray

    store = TokenStore.open(stored)
    tokens = xarray.open_zarr(store.to_zarr(decoded=True).store, group="visual", consolidated=False)
    assert tokens["s2"].dims == ("clip", "s2_block", "segment", "s2_token", "s2_channel")
    expected = store.read([2], ["visual/s2b03"]).layers["visual/s2b03"].floats()[0].numpy()
    np.testing.assert_array_equal(tokens["s2"].isel(clip=2, s2_block=2).values, expected)


@pytest.mark.parametrize("codec", ["int8"])
@pytest.mark.parametrize("decoded", [False, True])
def test_the_keys_are_those_that_have_values(stored, decoded):
    view = TokenStore.open(stored).to_zarr(decoded=decoded).store

    async def look():
        keys = [key async for key in view.list()]
        assert len(keys) == len(set(keys))
        prototype = default_buffer_prototype()
        for key in keys:
            assert await view.exists(key)
            value = (await view.get(key, prototype)).to_bytes()
            parts = await view.get_partial_values(
                prototype, [(key, RangeByteRequest(2, 5)), (key, OffsetByteRequest(3)), (key, SuffixByteRequest(4))]
            )
            assert [part.to_bytes() for part in parts] == [value[2:5], value[3:], value[-4:]]
        end = ".0.0.0" if decoded else ".0"
        assert f"visual/s2/c.0.2{end}" in keys
        for key in (f"visual/s2/c.1.0{end}", f"visual/s2/c.0.3{end}", f"visual/s2/c.00.0{end}", "visual/s2", "READY"):
            assert not await view.exists(key)
            assert key not in keys
        for key in (f"visual/s2/c.4.0{end}", f"visual/s9/c.0.0{end}", "visual/s2/c.0", "READY"):
            assert await view.get(key, prototype) is None
        assert [key async for key in view.list_prefix("audio/")] == [key for key in keys if key.startswith("audio/")]
        assert {name async for name in view.list_dir("visual/")} >= {"s1", "s2"}
        with pytest.raises(ValueError, match="read-only"):
            await view.set("a", prototype.buffer.from_bytes(b""))
        with pytest.raises(ValueError, match="read-only"):
            await view.delete(keys[0])

    asyncio.run(look())


@pytest.mark.parametrize("decoded", [False, True])
def test_a_store_of_format_1_has_both_views(codec, decoded):
    store = TokenStore.open(GOLDEN / "v1" / f"{codec}.zarr")
    group = store.to_zarr(decoded=decoded)
    expected = golden_tokens(codec, 1)["visual/s1b02"]
    values = expected.floats() if decoded else expected.codes
    np.testing.assert_array_equal(group["visual/s1"][1, 1], values.numpy())
    if not decoded and codec != "float16":
        np.testing.assert_array_equal(group["visual/s1_scale"][1, 1], expected.scale.numpy())
    with pytest.raises(StoreError, match="clip lost has no tokens"):
        group["visual/s1"][2]


@pytest.mark.parametrize("codec", ["int8"])
def test_listing_the_group_shows_its_arrays_and_warns_of_no_record(stored):
    """Warnings are errors here; zarr has one for every file beside the groups that is not its own."""
    group = TokenStore.open(stored).to_zarr()
    assert set(group) == {layer.modality for layer in LAYERS}
    names = {name for name, _ in group.members(max_depth=None)}
    assert set(STAGES) <= names
    assert {"READY", "commits", "manifest.parquet"}.isdisjoint(names)
