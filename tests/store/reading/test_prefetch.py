"""The prefetch ring: in order, bounded, and cleaned up however the loop ends."""

import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import store_layout
from mettle_cache.store.reading import prefetch
from mettle_cache.store.reading.buffers import BatchBuffer, block_runs
from mettle_cache.store.reading.prefetch import prefetch_batches
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import INT8, LayerTokens
from tests.store.tiny import LAYERS, SEGMENTS, clip_tokens, make_spec, write_store

NAMES = [layer.name for layer in LAYERS]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    write_store(path, make_spec(clips=6))
    return path


@pytest.fixture
def runs():
    return block_runs(store_layout(LAYERS, SEGMENTS, get_codec("int8"), clips=6, clips_each=2), NAMES)


def assemble(_, arrays):
    return LayerTokens(arrays["codes"], INT8, {part: array for part, array in arrays.items() if part != "codes"})


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def fill_with(clip, buffer, slot):
    buffer.batch(range(buffer.size), NAMES).layers[NAMES[0]].codes[slot] = clip


@given(order=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=6), threads=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_any_order_is_delivered_as_asked(path, order, threads, depth):
    with TokenStore.open(path) as store:
        found = []
        for batch in store.batches(order, threads=threads, depth=depth):
            found.append(list(batch.clips))
            for slot, clip in enumerate(batch.clips):
                assert torch.equal(batch.layers[NAMES[0]].codes[slot], clip_tokens(clip)[NAMES[0]].codes)
        assert found == order


def test_an_endless_order_is_asked_for_only_as_far_as_there_are_buffers(runs):
    asked = []
    order = ([asked.append(number) or number] for number in itertools.count())
    batches = prefetch_batches(fill_with, order, runs, NAMES, assemble, threads=2, depth=3, device=CPU)
    for number in range(20):
        assert next(batches).clips == (number,)
        assert len(asked) == number + 3
    batches.close()


def test_slow_reads_do_not_change_the_order(runs):
    def slow_first(clip, buffer, slot):
        time.sleep(0.02 * (clip % 3 == 0))
        fill_with(clip, buffer, slot)

    order = [[clip, clip + 1] for clip in range(12)]
    batches = prefetch_batches(slow_first, order, runs, NAMES, assemble, threads=4, depth=4, device=CPU)
    for clips, batch in zip(order, batches, strict=True):
        assert [int(codes.flatten()[0]) for codes in batch.layers[NAMES[0]].codes] == clips


def test_a_batch_is_not_touched_before_the_next_is_asked_for(runs):
    batches = prefetch_batches(
        fill_with, [[n] for n in range(9)], runs, NAMES, assemble, threads=3, depth=2, device=CPU
    )
    for number, batch in enumerate(batches):
        time.sleep(0.01)
        assert torch.all(batch.layers[NAMES[0]].codes == number)


class NoDiskError(Exception):
    pass


def fail_on(bad):
    def read(clip, buffer, slot):
        if clip == bad:
            raise NoDiskError
        fill_with(clip, buffer, slot)

    return read


def interrupted_loop(path):
    with TokenStore.open(path) as store:
        for _ in store.batches([[0, 1]] * 50):
            raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ["error", "break", "exception", "collected", "never started"])
def test_threads_and_files_are_gone_however_it_ends(path, runs, ending):
    files = descriptors()
    if ending == "error":
        batches = prefetch_batches(
            fail_on(3), [[n] for n in range(9)], runs, NAMES, assemble, threads=2, depth=2, device=CPU
        )
        seen = []
        with pytest.raises(NoDiskError):
            seen.extend(batch.clips for batch in batches)
        assert seen == [(0,), (1,), (2,)]
    elif ending == "break":
        with TokenStore.open(path) as store:
            for _ in store.batches([[0, 1]] * 50):
                break
    elif ending == "exception":
        with pytest.raises(KeyboardInterrupt):
            interrupted_loop(path)
    elif ending == "collected":
        store = TokenStore.open(path)
        batches = store.batches([[0, 1]] * 50)
        next(batches)
        del batches, store
    else:
        TokenStore.open(path).batches([[0, 1]] * 50)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("mettle-read")] == []
    assert descriptors() == files


def test_buffers_grow_with_the_batch_and_are_used_again(runs, monkeypatch):
    made = []
    monkeypatch.setattr(
        prefetch, "BatchBuffer", lambda *args, **kwargs: made.append(args[1]) or BatchBuffer(*args, **kwargs)
    )
    order = [[0], [1, 2], [3], [4, 5, 6], [7], [8], [9, 10]]
    for batch in prefetch_batches(fill_with, order, runs, NAMES, assemble, threads=1, depth=1, device=CPU):
        codes = batch.layers[NAMES[0]].codes
        assert codes.flatten(1)[:, 0].tolist() == list(batch.clips)
    assert made == [1, 2, 3]


class LateCopy:
    """Stands for a GPU: a batch is another memory, into which the buffer is copied some time after it was delivered."""

    pinned = False

    def __init__(self, device):
        self.executor = ThreadPoolExecutor(1)

    def deliver(self, buffer, clips, names):
        memory = torch.empty_like(buffer.memory)

        def copy():
            time.sleep(0.005)
            memory.copy_(buffer.memory)

        return buffer.batch_in(memory, clips, names), self.executor.submit(copy).result


def test_a_buffer_is_filled_again_after_its_copy_and_before_the_next_batch_is_asked_for(runs, monkeypatch):
    monkeypatch.setattr(prefetch, "Transfer", LateCopy)
    asked = []
    order = ([asked.append(number) or number] for number in range(9))
    batches = prefetch_batches(fill_with, order, runs, NAMES, assemble, threads=2, depth=2, device=CPU)
    kept = []
    for number, batch in enumerate(batches):
        # the buffer of this batch has its next clips already, though the batch is not copied yet
        assert len(asked) == min(9, number + 3)
        kept.append(batch)
    time.sleep(0.1)
    for number, batch in enumerate(kept):
        assert torch.all(batch.layers[NAMES[0]].codes == number)


@pytest.mark.gpu
def test_batches_arrive_on_a_gpu_and_stay_valid(path):
    store = TokenStore.open(path)
    order = [[clip % 6, (clip + 1) % 6] for clip in range(40)]
    kept = list(store.batches(order, device="cuda"))
    for clips, batch in zip(order, kept, strict=True):
        for slot, clip in enumerate(clips):
            for name, tokens in clip_tokens(clip).items():
                assert batch.layers[name].codes.is_cuda
                assert torch.equal(batch.layers[name].codes[slot].cpu(), tokens.codes)
                assert torch.equal(batch.layers[name].zero[slot].cpu(), tokens.zero)
