"""Tokens that stay: the bytes of a store, read once."""

import itertools
import shutil

import pytest
import torch

from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.store.reading.clip_reader import ClipReader
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.shards import stored_arrays
from tests.store.tiny import LAYERS, make_spec, write_store

CPU = torch.device("cpu")
# gathered on a device, which the CPU stands for, or copied from host memory
PLACES = pytest.mark.parametrize("device", [CPU, None], ids=["device", "memory"])
ORDER = [[0, 1], [2], [1, 1, 3], [0, 2, 3]]


@pytest.fixture(scope="module", params=["int8", "int4", "float16"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    write_store(path, make_spec(request.param, clips=5))
    return path


@pytest.fixture
def reads(monkeypatch):
    """The clips that are read from the disk, in any order."""
    asked = []
    read_clip = ClipReader.read_clip
    monkeypatch.setattr(
        ClipReader, "read_clip", lambda self, clip, *where: asked.append(clip) or read_clip(self, clip, *where)
    )
    return asked


def arrays_of(batch):
    """Everything that a batch delivers, copied: a ring is filled again."""
    return batch.clips, {
        (name, part): array.clone()
        for name, tokens in batch.layers.items()
        for part, array in stored_arrays(tokens).items()
    }


def assert_same(found, expected):
    assert [clips for clips, _ in found] == [clips for clips, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype
            assert torch.equal(array, theirs[name])


@PLACES
@pytest.mark.parametrize("names", [None, ["visual/s2b01", "visual/s2b03", "audio/s1b01"]], ids=["all", "some"])
def test_batches_are_the_store_s_to_the_bit_and_a_clip_is_read_once(path, reads, device, names):
    with TokenStore.open(path) as store:
        plain = list(map(arrays_of, store.batches(ORDER, layers=names)))
        reads.clear()
        kept = store.keep(range(4), names, device)
        for order, known in ((ORDER, plain), (ORDER[::-1], plain[::-1])):
            # one thread: two may read a clip of one batch at once, to the same bytes
            assert_same(list(map(arrays_of, store.batches(order, layers=names, resident=kept, threads=1))), known)
        assert sorted(reads) == [0, 1, 2, 3]
        assert kept.nbytes == kept.filled_bytes == store.resident_bytes(4, names) == 4 * store.read([0], names).nbytes


@PLACES
def test_a_clip_without_room_is_read_every_time(path, reads, device):
    with TokenStore.open(path) as store:
        order = [[0, 4], [1], [4, 1]]
        plain = list(map(arrays_of, store.batches(order)))
        kept = store.keep([0, 1], device=device)
        for _ in range(2):
            assert_same(list(map(arrays_of, store.batches(order, resident=kept))), plain)
        assert kept.filled_bytes <= kept.nbytes == store.resident_bytes(2)
        assert reads.count(4) == 6


@PLACES
def test_filling_that_is_left_goes_on(path, reads, device):
    with TokenStore.open(path) as store:
        kept = store.keep(range(4), device=device)
        for _ in itertools.islice(store.batches([[0], [1], [2], [3]], resident=kept, depth=1), 2):
            pass
        assert sorted(set(reads)) == [0, 1]
        (batch,) = store.batches([[3, 2, 1, 0]], resident=kept, threads=1)
        assert sorted(reads) == [0, 1, 2, 3]
        assert_same([arrays_of(batch)], [arrays_of(store.read([3, 2, 1, 0]))])


@PLACES
def test_damage_is_found_when_it_is_read_and_nothing_of_it_stays(path, tmp_path, device):
    copy = shutil.copytree(path, tmp_path / "damaged.zarr")
    shard = sorted((copy / "visual" / "s1").glob("c.*"))[0]
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    with TokenStore.open(copy) as store:
        kept = store.keep(range(4), device=device)
        for _ in range(2):
            with pytest.raises(StoreCorruptError, match="clip-0"):
                list(store.batches([[0, 1]], resident=kept))
        assert store.read([3]).nbytes


def test_what_stays_is_of_the_layers_that_are_asked_for(path):
    with TokenStore.open(path) as store:
        kept = store.keep([0], [LAYERS[0].name])
        with pytest.raises(UsageError, match="those of other layers"):
            store.batches([[0]], resident=kept)
