"""The reader against what was encoded, and everything that it must refuse."""

import pickle
import shutil
import threading
from itertools import accumulate

import pytest
import torch

from mettle_cache.errors import (
    StoreCorruptError,
    StoreError,
    StoreKeyError,
    StoreMissingError,
    StoreUnfinishedError,
    UsageError,
)
from mettle_cache.store import StoreWriter, TokenStore
from mettle_cache.store.format.digests import CRC_BYTES, crc32c
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading import buffers, clip_reader
from tests.store.tiny import CODECS, LAYERS, clip_tokens, make_spec, source, write_store

NAMES = [layer.name for layer in LAYERS]


@pytest.fixture(params=CODECS)
def codec(request):
    return request.param


@pytest.fixture
def stored(tmp_path, codec):
    path = tmp_path / "s.zarr"
    write_store(path, make_spec(codec, clips=5), failed=[3])
    return path


def assert_equal(batch, codec, names=NAMES):
    assert list(batch.layers) == list(names)
    for slot, clip in enumerate(batch.clips):
        expected = clip_tokens(clip, codec)
        for name in names:
            for part in ("codes", "scale", "zero"):
                got, want = getattr(batch.layers[name], part), getattr(expected[name], part)
                assert (got is None) == (want is None)
                assert got is None or torch.equal(got[slot], want)


def test_what_was_written_is_read_in_any_order(stored, codec):
    store = TokenStore.open(stored)
    assert_equal(store.read([4, 0, 2, 0]), codec)
    assert store.failed == {"clip-3": "no such video"}
    assert store.codec == codec


@pytest.mark.parametrize(
    "names",
    [["visual/s2b02"], ["visual/s1b01", "visual/s2b01", "visual/s2b03"], ["audio/s1b01", "visual/s1b02"], NAMES],
)
def test_some_layers_only(stored, codec, names):
    assert_equal(TokenStore.open(stored).read([1, 2], names), codec, names)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_batches_come_in_order_and_whole(stored, codec, threads, depth):
    order = [[0, 1], [4], [2, 4], [1, 0], [2, 2]]
    store = TokenStore.open(stored)
    seen = []
    for batch in store.batches(order, threads=threads, depth=depth):
        assert_equal(batch, codec)
        seen.append(list(batch.clips))
    assert seen == order


def test_the_ring_is_all_the_memory_that_batches_use(stored):
    store = TokenStore.open(stored)
    homes = {batch.layers[NAMES[0]].codes.data_ptr() for batch in store.batches([[0, 1]] * 30, depth=2)}
    assert len(homes) <= 3


def test_leaving_early_stops_the_threads(stored):
    before = set(threading.enumerate())
    batches = TokenStore.open(stored).batches([[0, 1]] * 50)
    next(batches)
    batches.close()
    assert set(threading.enumerate()) == before


def place(path, name, clip, block=0):
    """The shard that holds a chunk, and where in it the chunk begins; and the array."""
    array = next(array for array in load_metadata(path).layout if array.name == name)
    return path / array.shard_path(array.shard(clip)), array.chunk_offset(clip, block), array


def flip(file, offset):
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x10
    file.write_bytes(data)


def test_damage_reaches_the_consumer_in_place_of_the_batch(stored):
    file, offset, _ = place(stored, "visual/s2", 2)
    flip(file, offset + 3)
    batches = TokenStore.open(stored).batches([[0], [1], [2], [4]], depth=3)
    assert next(batches).clips == (0,)
    assert next(batches).clips == (1,)
    with pytest.raises(StoreCorruptError, match=r"clip clip-2, layer visual/s2b01: .*visual/s2/c\.1\.0\.0: "):
        next(batches)


def test_damage_to_one_clip_of_a_shard_leaves_the_others(stored, codec):
    file, offset, _ = place(stored, "visual/s2", 1, block=2)
    flip(file, offset)
    store = TokenStore.open(stored)
    assert_equal(store.read([0]), codec)
    with pytest.raises(StoreCorruptError, match="clip clip-1, layer visual/s2b03: "):
        store.read([1])


def test_checks_first_always_never(stored):
    shard, offset, _ = place(stored, "audio/s1", 1)
    first, always, never = (TokenStore.open(stored, check=check) for check in ("first", "always", "never"))
    for store in (first, always, never):
        store.read([1])
    flip(shard, offset)
    first.read([1])
    never.read([1])
    with pytest.raises(StoreCorruptError, match="not those that were committed"):
        always.read([1])
    with pytest.raises(StoreCorruptError, match="mettle verify"):
        TokenStore.open(stored).read([1])


def test_only_the_first_read_of_a_chunk_is_checked_whatever_layers_it_is_read_with(stored, monkeypatch):
    summed = []
    monkeypatch.setattr(clip_reader, "crc32c", lambda data, before=0: summed.append(len(data)) or crc32c(data, before))
    store = TokenStore.open(stored)
    store.read([1], ["visual/s2b02"])
    store.read([1], ["visual/s2b02"])
    one = sum(summed)
    assert one == place(stored, "visual/s2", 1)[2].chunk_bytes
    store.read([1])
    everything = sum(array.blocks * array.chunk_bytes for array in load_metadata(stored).layout)
    # a run that has a chunk to be checked is checked whole
    assert sum(summed) == one + everything
    store.read([1])
    assert sum(summed) == one + everything


@pytest.mark.parametrize("piece", [1, 5, 64, 1 << 20])
def test_checking_in_pieces_of_any_size_reads_the_same_and_finds_every_flip(stored, codec, piece, monkeypatch):
    monkeypatch.setattr(buffers, "_PIECE_BYTES", piece)
    assert_equal(TokenStore.open(stored, check="always").read([2, 0]), codec)
    file, start, array = place(stored, "visual/s1", 1)
    good = file.read_bytes()
    ends = accumulate(array.field_bytes, initial=0)
    for offset in {*ends, array.chunk_bytes - 1, array.chunk_bytes + CRC_BYTES, array.clip_bytes - 1}:
        flip(file, start + offset)
        with pytest.raises(StoreCorruptError, match=r"not those that were committed|stored checksum is damaged"):
            TokenStore.open(stored).read([1])
        file.write_bytes(good)
    assert_equal(TokenStore.open(stored).read([1]), codec)


@pytest.mark.parametrize("change", ["shortened", "lengthened", "index"])
def test_a_shard_that_ends_otherwise_is_damaged_unless_nothing_is_checked(stored, codec, change):
    file, _, array = place(stored, "visual/s1", 2)
    good = file.read_bytes()
    if change == "index":
        flip(file, array.index_offset(1) + 5)
    else:
        file.write_bytes(good[:-1] if change == "shortened" else good + b"0")
    said = "index is damaged" if change == "index" else f"bytes instead of {len(good):,}"
    with pytest.raises(StoreCorruptError, match=f"clip clip-2, layer visual/s1b01 to visual/s1b02: .*{said}"):
        TokenStore.open(stored).read([2])
    assert_equal(TokenStore.open(stored, check="never").read([2]), codec)


def test_swapped_clips_of_a_shard_and_swapped_shards_are_no_substitute(stored):
    for clips in ((0, 1), (1, 2)):
        path = shutil.copytree(stored, stored.with_name(f"swapped-{clips}"))
        (one, start, array), (two, other, _) = (place(path, "visual/s1", clip) for clip in clips)
        data, size = {file: bytearray(file.read_bytes()) for file in (one, two)}, array.clip_bytes
        here, there = bytes(data[one][start : start + size]), bytes(data[two][other : other + size])
        data[one][start : start + size], data[two][other : other + size] = there, here
        for file, content in data.items():
            file.write_bytes(content)
        for clip in clips:
            with pytest.raises(StoreCorruptError, match=f"clip clip-{clip}, layer visual/s1b01"):
                TokenStore.open(path).read([clip])


def test_a_link_in_place_of_a_shard_is_refused(stored, tmp_path):
    shard, _, _ = place(stored, "visual/s1", 0)
    moved = shutil.move(shard, tmp_path / "elsewhere")
    shard.symlink_to(moved)
    with pytest.raises(StoreCorruptError, match="clip clip-0"):
        TokenStore.open(stored).read([0])


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda store: store.read([9]), UsageError, "there is no clip 9; .* has clips 0 to 4"),
        (lambda store: store.read([-1]), UsageError, "there is no clip -1"),
        (lambda store: store.read([3]), StoreError, "clip clip-3 has no tokens: no such video"),
        (lambda store: store.read([0], ["visual/s9b01"]), UsageError, "has no layer visual/s9b01"),
        (lambda store: store.read([0], []), UsageError, "none named"),
        (lambda store: store.batches([[0]], threads=0), UsageError, "at least one thread"),
        (lambda store: list(store.batches([[0], [3]])), StoreError, "has no tokens"),
    ],
)
def test_what_is_not_there_is_refused(stored, ask, error, message):
    with pytest.raises(error, match=message):
        ask(TokenStore.open(stored))


def test_no_store_and_an_unknown_check(tmp_path, stored):
    with pytest.raises(StoreMissingError):
        TokenStore.open(tmp_path / "nothing.zarr")
    with pytest.raises(UsageError, match="none of first, always, never"):
        TokenStore.open(stored, check="sometimes")


def test_an_unfinished_store_is_refused_and_then_read_where_it_is_committed(tmp_path, codec):
    path = tmp_path / "s.zarr"
    with StoreWriter.create_or_resume(path, make_spec(codec)) as writer:
        writer.pending()
        writer.write_clip(2, clip_tokens(2, codec), source=source(2))
    with pytest.raises(StoreUnfinishedError, match="no READY") as caught:
        TokenStore.open(path)
    assert "mettle extract" in caught.value.hint
    partial = TokenStore.open(path, allow_unfinished=True)
    assert_equal(partial.read([2]), codec)
    with pytest.raises(StoreUnfinishedError, match="clip-0 is not committed"):
        partial.read([0])


@pytest.mark.parametrize("codec", ["int8"])
def test_an_unfinished_store_can_be_read_while_its_shards_are_sealed(tmp_path, codec):
    path = tmp_path / "s.zarr"
    spec = make_spec(codec, clips=4)
    with StoreWriter.create_or_resume(path, spec) as writer:
        writer.pending()
        for clip in (0, 2):
            writer.write_clip(clip, clip_tokens(clip, codec), source=source(clip))
    partial = TokenStore.open(path, allow_unfinished=True)
    assert list((path / "visual/s1").glob("*.partial"))
    assert_equal(partial.read([0]), codec)
    write_store(path, spec)
    assert not list((path / "visual/s1").glob("*.partial"))
    # one file is still open under its former name, the other one is found under its new one
    assert_equal(partial.read([0, 2]), codec)
    with pytest.raises(StoreUnfinishedError, match="clip-1 is not committed"):
        partial.read([1])


def test_a_store_is_a_collection_of_clips(stored, codec):
    with TokenStore.open(stored) as store:
        assert len(store) == len(store.clips)
        assert list(store) == list(store.clips)
        assert "clip-1" in store
        assert "clip-9" not in store
        for name, tokens in store["clip-1"].items():
            expected = clip_tokens(1, codec)[name]
            assert torch.equal(tokens.codes, expected.codes)
            assert torch.equal(store[1][name].floats(), expected.floats())
        mixed = store.read(["clip-2", 0])
        assert mixed.clips == (2, 0)
        assert torch.equal(mixed.layers[LAYERS[0].name].codes, store.read([2, 0]).layers[LAYERS[0].name].codes)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("clip_1", r"there is no clip 'clip_1' in .*\n.*did you mean 'clip-1'\?"),
        ("nothing like it", r"there is no clip 'nothing like it' in .*\n.*store\.clips lists them"),
        (True, "by its id or index, not by True"),
        (1.0, r"by its id or index, not by 1\.0"),
        (None, "by its id or index, not by None"),
        (-1, "there is no clip -1"),
        (99, "there is no clip 99"),
    ],
)
def test_what_names_no_clip_is_refused(tmp_path, clip, message):
    write_store(tmp_path / "s.zarr", make_spec(clips=2))
    with TokenStore.open(tmp_path / "s.zarr") as store:
        for use in (store.__getitem__, lambda name: store.read([name])):
            with pytest.raises(UsageError, match=message):
                use(clip)
        with pytest.raises(
            UsageError, match=r"takes several clips, not the one 'clip-1'\n.*store\.read\(\['clip-1'\]\)"
        ):
            store.read("clip-1")
        with pytest.raises(UsageError, match=r"takes several clips, not the one 1\n.*store\.read\(\[1\]\)"):
            store.read(1)


def test_its_repr_says_what_is_in_it(tmp_path):
    write_store(tmp_path / "s.zarr", make_spec(clips=3), failed=[1])
    text = repr(TokenStore.open(tmp_path / "s.zarr"))
    assert text.startswith(
        f"<TokenStore {tmp_path / 's.zarr'}: tiny, 3 clips (1 without tokens) of 2 segments, 6 layers"
    )
    assert "(visual/s1b01 to audio/s1b01) in int8" in text
    assert "unfinished" not in text


def test_labels_are_those_of_a_task_object(tmp_path):
    write_store(tmp_path / "s.zarr", make_spec(clips=2))

    class RowTask:
        def targets(self, rows):
            return torch.tensor([[row, 2 * row] for row in rows])

    with TokenStore.open(tmp_path / "s.zarr") as store:
        labels = store.labels(RowTask())
        assert torch.equal(labels, torch.tensor([[row, 2 * row] for row in range(store.samples.num_rows)]))


def test_another_process_opens_the_same_store_and_refuses_another(tmp_path, monkeypatch):
    write_store(tmp_path / "s.zarr", make_spec(clips=2))
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(TokenStore.open("s.zarr", check="always"))
    monkeypatch.chdir("/")
    there = pickle.loads(sent)  # noqa: S301 - our own bytes
    assert there.clips == ("clip-0", "clip-1")
    assert torch.equal(there[1][LAYERS[0].name].codes, clip_tokens(1)[LAYERS[0].name].codes)
    shutil.rmtree(tmp_path / "s.zarr")
    write_store(tmp_path / "s.zarr", make_spec(clips=2, key={"visual": "other"}))
    with pytest.raises(StoreKeyError, match="is another store than the one that was sent here"):
        pickle.loads(sent)  # noqa: S301
    shutil.rmtree(tmp_path / "s.zarr")
    write_store(tmp_path / "s.zarr", make_spec(clips=2), failed=[0])
    with pytest.raises(StoreKeyError, match="is another store"):
        pickle.loads(sent)  # noqa: S301
