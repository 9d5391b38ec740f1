"""Companions, beside pooling by hand; whatever stops their making, the bytes are the same in the end."""

import shutil
import threading
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from mettle_cache.errors import NoRoomError, StoreCorruptError
from mettle_cache.pipelines import room
from mettle_cache.pipelines.companions import making
from mettle_cache.pipelines.companions.making import NotMadeError, make_companions, pooled_spec, remove_companion
from mettle_cache.pipelines.companions.pooled_grids import find_grids, pooled_grids
from mettle_cache.pipelines.companions.pooled_table import companion_bytes, pooled_tables
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.signals import InterruptedRunError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, verify_store
from mettle_cache.store.writing import shard_files
from tests.pipelines.companions.pooling import FLAT, MIXED, POOLED, pool, pooled, write_mixed_store
from tests.pipelines.listener import Listener
from tests.store.test_stopped import stopped_everywhere
from tests.store.tiny import contents


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    return write_mixed_store(tmp_path_factory.mktemp("lossy") / "s.zarr", failed={"train002": "no picture"})


@pytest.fixture
def store(lossy, tmp_path):
    """A copy to write beside."""
    shutil.copytree(lossy.path, tmp_path / "s.zarr")
    return TokenStore.open(tmp_path / "s.zarr")


def make(store, wanted=POOLED, progress=None):
    return pooled_grids(store, wanted, progress or Silent())


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_the_values_are_those_of_pooling_decoded_tokens_by_hand(tmp_path, codec):
    store = write_mixed_store(tmp_path / "s.zarr", 2, codec=codec)
    found = make(store)
    assert sorted(grids.table.stem for grids in found) == ["pooled-max-2x2", "pooled-mean-1x2", "pooled-mean-2x2"]
    checked = 0
    for grids in found:
        assert grids.store.clips == store.clips
        for clip in store:
            decoded, companion = store[clip], grids.store[clip]
            for each in grids.table.pooled:
                expected = pool(decoded[each.layer.name].floats(), each)
                got = companion[each.layer.name]
                assert got.format.name == "floats"
                np.testing.assert_allclose(got.floats(), expected, rtol=2**-10, atol=2**-20)
                checked += 1
    assert checked == len(POOLED) * len(store)


def test_it_is_a_store_without_samples_whose_key_says_what_it_was_made_of(store):
    grids = make(store)[0]
    facts = describe_store(grids.store.path)
    assert facts["key"]["extraction"]["pooled"] == {
        "how": "max",
        "grid": [2, 2],
        "codec": "int8",
        "store": store.key_digest,
        "content": store.content_digest,
    }
    assert facts["provenance"]["pooled"] == "maxima of the tokens as they decode from int8"
    assert (facts["codec"], facts["rows"], facts["failed"]) == ("float16", {}, {"train002": "no picture"})
    assert grids.store.statuses == store.statuses
    assert grids.store.made_of == store.made_of
    assert verify_store(grids.store.path, deep=True).ok


def test_the_bytes_are_what_was_said_before(store):
    listener = Listener()
    found = make(store, progress=listener)
    written = sum(grids.store.nbytes for grids in found)
    clips = store.statuses.count("ok")
    assert written == companion_bytes(MIXED, POOLED, store.segments, clips) == listener.nbytes
    assert listener.notes == [
        f"4 layers are read on coarser grids: they are pooled once and kept in {store.path / 'companions'}, "
        f"{written / 1e3:.1f} kB"
    ]
    assert (listener.done, listener.total) == (clips, clips)


def test_what_is_there_is_not_made_again(store, monkeypatch):
    before = [grids.store.path for grids in make(store)]
    monkeypatch.setattr(making, "make_companions", None)
    listener = Listener()
    assert [grids.store.path for grids in make(store, progress=listener)] == before
    # one with more layers serves
    assert len(make(store, POOLED[:1], listener)) == 1
    assert listener.notes == []


def test_stopped_after_any_operation_it_goes_on_to_the_same_bytes(tmp_path):
    store = write_mixed_store(tmp_path / "s.zarr", 1, failed={"val000": "no picture"})
    table = pooled_tables(MIXED, [pooled(FLAT)])[0]
    make(store, table.pooled)
    whole = contents(store.path / "companions")
    stopped = 0
    for path in stopped_everywhere(
        tmp_path, lambda path: path.mkdir(), lambda path: make_companions(store, path, [table], Silent())
    ):
        make_companions(store, path, [table], Silent())
        assert contents(path) == whole
        shutil.rmtree(path)
        stopped += 1
    assert stopped > 20


def test_two_at_once_do_no_harm_and_one_of_them_waits(store, monkeypatch):
    makers, pool_clips = [], making._pool_clips
    begun = threading.Event()

    def slowly(*arguments):
        makers.append(threading.get_ident())
        begun.set()
        pool_clips(*arguments)

    monkeypatch.setattr(making, "_pool_clips", slowly)
    listeners = [Listener(), Listener()]
    threads = [threading.Thread(target=make, args=(store, POOLED, listener)) for listener in listeners]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert len(makers) == 1
    assert sum("waiting for it" in note for listener in listeners for note in listener.notes) == 1
    assert verify_store(store.path, deep=True).ok
    assert not list((store.path / "companions").glob(".*"))
    assert len(make(store)) == 3


def test_those_of_a_store_whose_clips_were_extracted_again_are_made_again(store):
    old = make(store)
    before = {grids.table.stem: contents(grids.store.path) for grids in old}
    with StoreWriter.join(store.path) as writer:
        tokens = dict(store["train000"])
        writer.write_clip(1, tokens, source="f" * 32)
        writer.finish()
    refreshed = TokenStore.open(store.path)
    assert refreshed.content_digest != store.content_digest
    states = [companion["state"] for companion in describe_store(store.path)["companions"]]
    assert states == ["outdated"] * 3
    assert verify_store(store.path, deep=True).pooled == ()
    assert find_grids(refreshed, store.path / "companions", old[0].table) is None
    listener = Listener()
    new = make(refreshed, progress=listener)
    assert [grids.store.path for grids in new] == [grids.store.path for grids in old]
    assert sum("made anew" in note for note in listener.notes) == 3
    for grids in new:
        assert contents(grids.store.path) != before[grids.table.stem]
        first, second = (grids.store[clip] for clip in ("train000", refreshed.clips[1]))
        assert all(torch.equal(tokens.codes, second[name].codes) for name, tokens in first.items())


def test_a_damaged_one_is_made_whole(store):
    (grids,) = make(store, [pooled(FLAT)])
    path, whole = grids.store.path, contents(grids.store.path)
    for damage in ("READY", "zarr.json", "manifest.parquet", "samples.parquet"):
        (path / damage).write_bytes(b"{}")
        make(store, [pooled(FLAT)])
        assert contents(path) == whole, damage


def test_a_store_that_is_damaged_is_no_reason_to_go_on_without(store):
    shard = next((store.path / "visual/s1").glob("c.0*"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(StoreCorruptError, match="train000"):
        make(store)


@pytest.mark.parametrize("place", ["file", "link", "format 1"])
def test_where_it_cannot_be_written_layers_are_pooled_as_they_are_read_and_that_is_said(store, tmp_path, place):
    folder = store.path / "companions"
    if place == "file":
        folder.write_text("")
        said = f"layers are pooled whenever they are read: the disk refused {folder}"
    elif place == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
        said = f"layers are pooled whenever they are read: {folder} is a link"
    else:
        object.__setattr__(store._metadata.record, "format", 1)
        said = f"{store.path} takes nothing beside it: layers are pooled whenever they are read"
    listener = Listener()
    assert make(store, progress=listener) == ()
    assert [note[: len(said)] for note in listener.notes] == [said]


def test_without_room_nothing_is_begun(store, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda path: 100)
    listener = Listener()
    assert make(store, progress=listener) == ()
    assert "still needs" in listener.notes[-1]
    assert not list((store.path / "companions").iterdir())


def test_a_disk_that_fills_up_is_left_as_it_was(store, monkeypatch):
    def full(*arguments, **options):
        raise NoRoomError("no room at all")

    monkeypatch.setattr(shard_files.ShardFiles, "write", full)
    with pytest.raises(NotMadeError, match="no room at all"):
        make_companions(store, store.path / "companions", pooled_tables(MIXED, POOLED), Silent())
    assert not list((store.path / "companions").iterdir())


def test_a_clip_that_float16_cannot_hold_fails_there_alone_and_whole_layers_are_read(store, monkeypatch):
    pool_tokens = making.pool_tokens

    def beyond(tokens, each):
        return pool_tokens(tokens, each) + (7e4 if each.how == "max" else 0)

    monkeypatch.setattr(making, "pool_tokens", beyond)
    found = make(store)
    assert [grids.table.how for grids in found] == ["mean", "mean"]
    failed = describe_store(next((store.path / "companions").glob("pooled-max*")))["failed"]
    assert "codec float16 takes finite values up to 60000" in failed["train000"]
    assert failed["train002"] == "no picture"


def test_it_is_stopped_by_a_signal_and_goes_on(store, monkeypatch):
    def stop_at_once(what):
        stop = threading.Event()
        stop.set()
        return nullcontext(stop)

    monkeypatch.setattr(making, "stop_on_signals", stop_at_once)
    with pytest.raises(InterruptedRunError, match="stopped with 3 clips to pool; what was pooled is kept beside"):
        make(store)
    monkeypatch.undo()
    listener = Listener()
    make(store, progress=listener)
    assert verify_store(store.path, deep=True).ok


@pytest.mark.parametrize("clips", [4, 10])
def test_no_more_clips_are_in_memory_than_threads_read(tmp_path, monkeypatch, clips):
    monkeypatch.setattr(making, "available_cores", lambda: 2)
    store = write_mixed_store(tmp_path / "s.zarr", clips)
    alive, most, read = set(), [0], TokenStore.read

    def watched(self, *arguments):
        batch = read(self, *arguments)
        number = len(alive) + most[0] * 1000
        alive.add(number)
        weakref.finalize(batch, alive.discard, number)
        most[0] = max(most[0], len(alive))
        return batch

    monkeypatch.setattr(TokenStore, "read", watched)
    make(store)
    assert 1 <= most[0] <= 3


def test_removing_is_one_step_and_clears_what_an_earlier_one_left(store):
    (grids,) = make(store, [pooled(FLAT)])
    left = grids.store.path.with_name(making.REMOVED)
    (left / "visual").mkdir(parents=True)
    remove_companion(grids.store.path)
    assert not list(left.parent.iterdir())
    remove_companion(grids.store.path)


def test_other_tokens_other_key(store):
    mean, wide = (pooled_tables(MIXED, [each])[0] for each in (POOLED[0], POOLED[3]))
    assert pooled_spec(store, mean).key_document() != pooled_spec(store, wide).key_document()
