"""A bench of reading on toy shapes: what its numbers mean, not how large they are."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark import readers
from mettle_cache.pipelines.benchmark.baselines.numpy_memmap import NumpyMemmap
from mettle_cache.pipelines.benchmark.baselines.protocol import Source
from mettle_cache.pipelines.benchmark.baselines.registry import BASELINES, is_installed
from mettle_cache.pipelines.benchmark.fullsize import write_bench_store
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.read import (
    CODEC_NAMES,
    GOALS,
    ReadTimer,
    ReadVariant,
    StoreToRead,
    our_name,
    raw_reads,
    run,
    time_readers,
)
from mettle_cache.pipelines.benchmark.readers import (
    baseline_reader,
    check_delivery,
    clip_slots,
    our_reader,
    random_order,
    token_ranges,
)
from mettle_cache.pipelines.benchmark.registry import run_bench
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store import TokenStore
from mettle_cache.store.format.metadata import load_metadata

CLIPS = 6
INSTALLED = [baseline for baseline in BASELINES if is_installed(baseline)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("read") / "int8"
    write_bench_store(path, bench_layers(tiny=True), codec="int8", clips=CLIPS)
    return path


@pytest.fixture(scope="module")
def source(store, tmp_path_factory):
    def make(baseline):
        folder = tmp_path_factory.mktemp("baseline")
        made = Source(store=store, arrays=load_metadata(store).layout, clips=CLIPS, folder=folder, threads=2)
        baseline.write(made)
        return made

    return make


@pytest.mark.parametrize("baseline", INSTALLED, ids=lambda baseline: baseline.name)
def test_every_library_delivers_the_tokens_of_the_store(baseline, source):
    made = source(baseline)
    reader = baseline_reader(baseline, made, clip_slots(made.arrays))
    with TokenStore.open(reader.store) as store:
        nbytes = store.read(range(CLIPS)).nbytes
    assert check_delivery(reader, random_order(CLIPS)) == nbytes
    files = reader.files()
    assert files
    assert all(file.is_file() for file in files)
    assert sum(file.stat().st_size for file in files) >= nbytes


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("check", ["never", "always"])
def test_our_reader_delivers_them_too_and_counts_their_bytes(tmp_path, codec, check):
    path = tmp_path / codec
    write_bench_store(path, bench_layers(tiny=True), codec=codec, clips=5)
    reader = our_reader("ours", path, check=check)
    with TokenStore.open(path) as store:
        assert check_delivery(reader, random_order(5)) == store.read(range(5)).nbytes


def lying_reader(path, change):
    """A reader that delivers what ``change(deliver, order)`` makes of an order."""
    honest = our_reader("liar", path, check="never")

    @contextmanager
    def open_reader():
        with honest.open() as deliver:
            yield partial(change, deliver)

    return replace(honest, open=open_reader)


def test_a_reader_that_delivers_other_clips_or_other_tokens_is_found_out(store):
    with pytest.raises(RunError, match="delivers other clips"):
        check_delivery(lying_reader(store, lambda deliver, order: deliver(order[::-1])), [0, 1, 2])
    with pytest.raises(RunError, match="delivers other clips"):
        check_delivery(lying_reader(store, lambda deliver, order: deliver(order[:-1])), [0, 1, 2])

    def relabelled(deliver, order):
        for delivery in deliver([order[1], order[0]]):
            yield readers._Batch(delivery.layers, tuple(order))

    with pytest.raises(RunError, match="delivers other tokens than clip 0 has in layer visual/s1b01"):
        check_delivery(lying_reader(store, relabelled), [0, 1])


def test_clips_are_read_ahead_in_order_into_memory_that_is_used_again():
    class Session:
        def __init__(self):
            self.slots = []

        def read_clip(self, clip, memory):
            self.slots.append(id(memory))
            memory["a"][...] = clip
            return memory

    session, slots = Session(), [{"a": np.zeros(1)} for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        found = []
        for delivery in readers._read_ahead(session, [5, 3, 9, 1, 7], slots, pool, ()):
            found.append((delivery.clip, delivery.values["a"][0]))
    assert found == [(clip, clip) for clip in (5, 3, 9, 1, 7)]
    assert set(session.slots) <= {id(slot) for slot in slots}


@pytest.mark.parametrize("cold", [False, True])
def test_ratios_are_to_the_limit_of_the_same_bytes_in_the_same_state(store, cold):
    order = random_order(CLIPS)
    ranges = token_ranges(store, order)
    reader = our_reader("ours", store, check="never")
    to_read = StoreToRead(codec="int8", order=order, ranges=ranges, nbytes=check_delivery(reader, order))
    variants = [*raw_reads(to_read), ReadVariant(name="ours", store=to_read, reader=reader, passes=2)]
    found = time_readers(variants, cold=cold, repeats=2, progress=Silent())
    state = "cold" if cold else "warm"
    assert [row.variant for row in found.limits] == [f"{state}: raw reads, int8"]
    assert [row.variant for row in found.rows] == [f"{state}: raw reads into a small buffer, int8", f"{state}: ours"]
    for row in found.rows:
        assert row.ratio == row.value / found.limits[0].value
        assert row.low <= row.value <= row.high
    if not cold:
        assert found.notes == ()


def test_a_rate_is_all_the_bytes_of_all_the_passes_over_the_time(store, monkeypatch):
    now = [0.0]
    reader = our_reader("ours", store, check="never")
    to_read = StoreToRead(codec="int8", order=[0, 1], ranges=(), nbytes=3 * 10**9)
    monkeypatch.setattr(
        "mettle_cache.pipelines.timing.time.perf_counter", lambda: now.__setitem__(0, now[0] + 1) or now[0]
    )
    variant = ReadVariant(name="ours", store=to_read, reader=reader, passes=4)
    (row,) = time_readers([variant], cold=False, repeats=1, progress=Silent()).rows
    assert row.value == pytest.approx(4 * 3.0)
    (row,) = time_readers([variant], cold=True, repeats=1, progress=Silent()).rows
    assert row.value == pytest.approx(3.0)


@pytest.mark.parametrize(("cold", "cached", "said"), [(True, 0.3, "30%"), (False, 0.6, "60%"), (True, 0.01, None)])
def test_a_page_cache_that_is_not_as_it_should_be_is_said(store, monkeypatch, cold, cached, said):
    monkeypatch.setattr("mettle_cache.pipelines.benchmark.read.cached_fraction", lambda files: cached)
    to_read = StoreToRead(codec="int8", order=[0], ranges=(), nbytes=1)
    variant = ReadVariant(name="ours", store=to_read, reader=our_reader("ours", store, check="never"))
    notes = time_readers([variant], cold=cold, repeats=1, progress=Silent()).notes
    state = "cold" if cold else "warm"
    assert notes == (() if said is None else (f"{state}: {said} of the files of ours were in the page cache",))


def test_a_cold_turn_opens_its_files_anew_and_closes_them(store):
    reader = our_reader("ours", store, check="never")
    opened = []
    counted = replace(reader, open=lambda: opened.append(1) or reader.open())
    to_read = StoreToRead(codec="int8", order=[0], ranges=(), nbytes=1)
    for cold, expected in ((True, 2), (False, 1)):
        opened.clear()
        timer = ReadTimer(ReadVariant(name="ours", store=to_read, reader=counted), cold)
        for _ in range(2):
            timer.prepare()
            timer.read()
            timer.rest()
        timer.close()
        assert len(opened) == expected


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    made = run_bench("read", BenchOptions(tiny=True, repeats=1, clips=5, folder=folder))
    assert list(folder.iterdir()) == []
    return made


def test_the_whole_bench_has_every_reader_warm_and_cold(table):
    names = [row.variant for row in table.rows]
    assert len(set(names)) == len(names)
    for state in ("warm", "cold"):
        assert {f"{state}: raw reads, {codec}" for codec in CODEC_NAMES} <= {row.variant for row in table.denominators}
        for codec in CODEC_NAMES:
            assert {f"{state}: {our_name(codec)}", f"{state}: {our_name(codec, 'always')}"} <= set(names)
        assert {f"{state}: {baseline.name}" for baseline in INSTALLED} <= set(names)
    for row in table.rows:
        if row.denominator is not None:
            assert row.ratio == row.value / table.row(row.denominator).value
    assert {goal.what: goal.wanted for goal in table.goals} == {
        f"warm: {our_name(codec, check)}, of the limit": wanted
        for codec in CODEC_NAMES
        for check, wanted in GOALS.items()
    }
    for goal in table.goals:
        assert goal.found == table.row(goal.what.removesuffix(", of the limit")).ratio
    assert (table.tiny, table.repeats) == (True, 1)
    assert table.command == "mettle bench read --repeats 1 --clips 5 --tiny"
    assert table.machine["processor"]


def test_a_library_that_is_missing_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.benchmark.read.CODEC_NAMES", ("int8",))
    monkeypatch.setattr(
        "mettle_cache.pipelines.benchmark.read.is_installed", lambda baseline: baseline.name == "np.memmap"
    )
    table = run(BenchOptions(tiny=True, repeats=1, clips=2, folder=tmp_path), Silent())
    row = table.row("MosaicML Streaming")
    assert (row.value, row.note) == (None, "not installed: pip install mosaicml-streaming")
    assert "warm: MosaicML Streaming" not in [row.variant for row in table.rows]
    assert table.row("cold: np.memmap").value > 0


def test_a_library_that_cannot_be_imported_is_a_line_too(tmp_path, monkeypatch):
    monkeypatch.setattr("mettle_cache.pipelines.benchmark.read.CODEC_NAMES", ("int8",))

    class Broken(NumpyMemmap):
        def open(self, source):
            raise ImportError("no module named 'half'")

    monkeypatch.setattr("mettle_cache.pipelines.benchmark.read.BASELINES", (Broken(),))
    table = run(BenchOptions(tiny=True, repeats=1, clips=2, folder=tmp_path), Silent())
    row = table.row("np.memmap")
    assert (row.value, row.note) == (None, "cannot be imported: no module named 'half'")
