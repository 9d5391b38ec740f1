"""klt stores from writing to reading: shared static arrays, codes without bytes, and the views of zarr."""

import numpy as np
import pytest
import torch
import zarr

from mettle_cache.layers import LayerSpec
from mettle_cache.store import StoreWriter, TokenDataset, TokenStore
from mettle_cache.store.format.codecs import encode_layers, get_codec
from tests.store.tiny import make_spec, raw_tokens, source

LAYERS = tuple(
    LayerSpec(modality=modality, stage=1, block=block, grid=(2, 4), tokens=8, width=16)
    for modality, blocks in (("visual", 2), ("audio", 1))
    for block in range(1, blocks + 1)
)
CLIPS = 5


@pytest.fixture(scope="module", params=["klt1.5", "klt0"])
def written(request, tmp_path_factory):
    """A store of one of the codecs, and what was encoded, clip by clip."""
    codec = get_codec(request.param)
    pilot = codec.pilot(LAYERS)
    for clip in range(100, 140):
        pilot.add(raw_tokens(clip, LAYERS))
    spec = make_spec(request.param, CLIPS, layers=LAYERS, static=pilot.finish())
    clips = [encode_layers(raw_tokens(clip, LAYERS), codec, LAYERS, spec.static) for clip in range(CLIPS)]
    path = tmp_path_factory.mktemp("klt") / "s.zarr"
    with StoreWriter.create_or_resume(path, spec) as writer:
        for clip in writer.pending():
            writer.write_clip(clip, clips[clip], source=source(clip))
        assert writer.finish().finished
    return path, clips


def test_what_was_encoded_is_read(written):
    path, clips = written
    with TokenStore.open(path, check="always") as store:
        batch = store.read([3, 0, 4])
    for slot, clip in enumerate(batch.clips):
        for name, expected in clips[clip].items():
            read = batch.layers[name][slot]
            assert torch.equal(read.codes, expected.codes)
            assert {part: array.tolist() for part, array in read.parts.items()} == {
                part: array.tolist() for part, array in expected.parts.items()
            }
            assert torch.equal(read.floats(), expected.floats())


def test_batches_reads_and_samples_share_one_copy_of_the_static_arrays(written):
    path, clips = written
    with TokenStore.open(path) as store:
        first = store.read([0])
        dataset = TokenDataset(store, "train", layers=[LAYERS[0].name])
        others = [*store.batches([[1, 2], [3]]), store.read([4]), dataset.collate([dataset[0], dataset[1]])["tokens"]]
        for batch in others:
            for name, tokens in batch.layers.items():
                assert tokens.static
                assert all(array is first.layers[name].static[part] for part, array in tokens.static.items())
                assert all(torch.equal(array, clips[0][name].static[part]) for part, array in tokens.static.items())


def test_zarr_reads_decoded_floats_and_plain_bytes(written):
    path, clips = written
    group = TokenStore.open(path).to_zarr(decoded=True)
    assert group["visual/s1"].shape == (CLIPS, 2, 2, 8, 16)
    for clip in (0, 4):
        for block, layer in enumerate(LAYERS[:2]):
            np.testing.assert_array_equal(group["visual/s1"][clip, block], clips[clip][layer.name].floats().numpy())
    plain = zarr.open_group(path, mode="r")["visual/s1"]
    tokens = clips[4][LAYERS[1].name]
    parts = [tokens.codes, *(tokens.parts[name] for name in tokens.format.parts)]
    assert plain[4, 1].tobytes() == b"".join(part.numpy().tobytes() for part in parts)
