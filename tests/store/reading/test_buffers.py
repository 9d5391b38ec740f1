"""Memory that comes back when nobody holds it any more, and never before."""

import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.store import TokenStore
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import store_layout
from mettle_cache.store.reading.buffers import BatchBuffer, SpareMemory, block_runs
from mettle_cache.tokens import INT8, LayerTokens
from tests.store.tiny import LAYERS, SEGMENTS, make_spec, write_store


@pytest.fixture
def spare():
    return SpareMemory()


def test_memory_comes_back_when_its_last_tensor_is_gone(spare):
    memory = spare.take(4096).fill_(7)
    part = memory[16:32].view(torch.int8).view(4, 4)
    place = memory.data_ptr()
    del memory
    assert spare.spare_bytes == 0, "a view still holds it"
    del part
    assert spare.spare_bytes == 4096
    again = spare.take(4096)
    assert again.data_ptr() == place
    assert again.eq(7).all(), "new pages, at the same address by chance, hold zeros"


def test_what_is_held_is_never_given_out_again(spare):
    held = spare.take(1000)
    held.fill_(7)
    other = spare.take(1000)
    other.fill_(9)
    assert held.eq(7).all()


def test_a_smaller_request_fits_into_what_is_spare_and_gives_all_of_it_back(spare):
    del_me = spare.take(1000)
    place = del_me.data_ptr()
    del del_me
    small = spare.take(10)
    assert (small.data_ptr(), small.nbytes) == (place, 10)
    assert spare.spare_bytes == 0
    del small
    assert spare.spare_bytes == 1000


def test_the_smallest_that_fits_is_taken(spare):
    both = [spare.take(1000), spare.take(500)]
    places = [memory.data_ptr() for memory in both]
    both.clear()
    assert spare.take(400).data_ptr() == places[1]


def test_a_larger_request_drops_what_is_too_small(spare):
    del_me = spare.take(100)
    del del_me
    large = spare.take(1000)
    assert spare.spare_bytes == 0
    del large
    assert spare.spare_bytes == 1000


def test_closed_it_keeps_nothing_and_can_be_used_again(spare):
    first, second = spare.take(100), spare.take(100)
    del first
    spare.close()
    assert spare.spare_bytes == 0
    del second
    assert spare.spare_bytes == 0, "what comes back after close() is freed"
    third = spare.take(100)
    del third
    assert spare.spare_bytes == 100


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, 64)), max_size=40))
def test_live_memory_never_overlaps_and_spare_memory_is_bounded(steps):
    spare, live, most = SpareMemory(), [], 0
    for number, (give_back, size) in enumerate(steps):
        if give_back and live:
            live.pop(size % len(live))
        else:
            memory = spare.take(size)
            memory.fill_(number)
            live.append((number, memory))
            memory = None
        # each block is at most as large as the largest request, and there are as many as were in use at once
        most = max(most, len(live))
        assert spare.spare_bytes <= 64 * most
    for number, memory in live:
        assert memory.eq(number).all()


def test_many_threads_may_take_at_once(spare):
    def work(number):
        for _ in range(50):
            memory = spare.take(256)
            memory.fill_(number)
            if not memory.eq(number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


def test_the_next_epoch_reads_into_the_memory_of_the_last_one(tmp_path):
    write_store(tmp_path / "store", make_spec(clips=4))
    with TokenStore.open(tmp_path / "store") as store:
        order = [[0, 1], [2, 3]]
        first = {batch.layers["visual/s1b01"].codes.data_ptr() for batch in store.batches(order)}
        again = {batch.layers["visual/s1b01"].codes.data_ptr() for batch in store.batches(order)}
        assert again == first


def test_a_batch_that_is_kept_past_its_epoch_stays_as_it_was(tmp_path):
    write_store(tmp_path / "store", make_spec(clips=4))
    with TokenStore.open(tmp_path / "store") as store:
        (kept,) = store.batches([[0, 1]])
        expected = kept.layers["visual/s2b02"].floats()
        for _ in store.batches([[2, 3]] * 4):
            pass
        assert torch.equal(kept.layers["visual/s2b02"].floats(), expected)
        assert torch.equal(expected, store.read([0, 1]).layers["visual/s2b02"].floats())


def test_a_store_frees_its_memory_when_it_is_closed(tmp_path):
    write_store(tmp_path / "store", make_spec(clips=2))
    store = TokenStore.open(tmp_path / "store")
    for batch in store.batches([[0], [1]]):
        del batch
    gc.collect()
    assert store._memory.spare_bytes > 0
    store.close()
    assert store._memory.spare_bytes == 0


NAMES = [layer.name for layer in LAYERS]


def assemble(_, arrays):
    return LayerTokens(arrays["codes"], INT8, {part: array for part, array in arrays.items() if part != "codes"})


def test_layers_do_not_share_memory_and_lie_on_boundaries():
    runs = block_runs(store_layout(LAYERS, SEGMENTS, get_codec("int8"), clips=6, clips_each=2), NAMES)
    batch = BatchBuffer(runs, 3, assemble).batch(range(3), NAMES)
    spans = sorted(
        (part.data_ptr(), part.data_ptr() + part.nbytes)
        for tokens in batch.layers.values()
        for part in (tokens.codes, *tokens.parts.values())
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all((start - spans[0][0]) % 512 == 0 for start, _ in spans)


def test_neighbouring_blocks_are_one_read():
    layout = store_layout(LAYERS, SEGMENTS, get_codec("float16"), clips=6, clips_each=2)
    runs = block_runs(layout, ["visual/s2b03", "visual/s2b02", "visual/s1b01", "audio/s1b01"])
    assert [(run.array.name, run.blocks) for run in runs] == [
        ("visual/s1", range(1)),
        ("visual/s2", range(1, 3)),
        ("audio/s1", range(1)),
    ]
    apart = block_runs(layout, ["visual/s2b01", "visual/s2b03"])
    assert [run.blocks for run in apart] == [range(1), range(2, 3)]
