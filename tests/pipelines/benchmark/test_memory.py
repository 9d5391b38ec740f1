"""A tiny run of the memory's bench: what its numbers mean, not how large they are."""

import pytest

from mettle_cache.pipelines.benchmark.fullsize import write_bench_store
from mettle_cache.pipelines.benchmark.heads import bench_recipe
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.memory import Breakdown, MemoryRequest, measure_memory, size_goals
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store import TokenStore

PARTS = ("heads", "gradients", "Adam", "codes", "saved for backward", "the rest")


@pytest.fixture(scope="module")
def table(tiny_bench):
    return tiny_bench("memory")


@pytest.mark.parametrize("batch", ["batch 4", "batch 1", "klt1.5, batch 4"])
def test_the_parts_make_the_whole(table, batch):
    whole = table.row(f"{batch}: everything")
    parts = [table.row(f"{batch}: {part}") for part in PARTS]
    assert sum(part.value for part in parts) == pytest.approx(whole.value)
    assert sum(part.ratio for part in parts) == pytest.approx(1)
    assert all(part.denominator == whole.variant for part in parts)


@pytest.mark.parametrize(
    ("codec", "batch", "peak", "met"),
    [
        ("int8", 16, 3.9, True),
        ("int8", 16, 4.1, False),
        ("int8", 1, 1.4, True),
        ("int8", 1, 1.6, False),
        ("klt1.5", 16, 2.1, True),
        ("klt1.5", 16, 2.3, False),
    ],
)
def test_full_shapes_are_held_to_their_gigabytes(codec, batch, peak, met):
    found = Breakdown(
        heads=1, gradients=1, moments=2, codes=1, saved=1, peak=int(peak * 1e9), libraries=1, memory_of="RSS"
    )
    name = f"batch {batch}" if codec == "int8" else f"{codec}, batch {batch}"
    (goal,) = size_goals({name: [found] * 3}, [(codec, batch)])
    assert (goal.found, goal.met) == (pytest.approx(peak), met)


def test_adam_holds_two_numbers_a_weight_and_a_gradient_is_as_large_as_its_weight(table):
    heads, gradients, moments = (table.row(f"batch 4: {part}").value for part in ("heads", "gradients", "Adam"))
    assert moments == pytest.approx(2 * gradients)
    assert gradients == pytest.approx(heads)


def test_four_clips_have_four_times_the_codes_of_one(table):
    assert table.row("batch 4: codes").value == pytest.approx(4 * table.row("batch 1: codes").value)


def test_klt_holds_fewer_codes_and_the_same_heads(table):
    assert table.row("klt1.5, batch 4: codes").value < table.row("batch 4: codes").value
    assert table.row("klt1.5, batch 4: heads").value == table.row("batch 4: heads").value


def test_the_ring_is_measured_on_two_sizes_of_store(table):
    assert table.row("ring, 9 clips").value > 0
    assert table.row("ring, 18 clips").denominator == "ring, 9 clips"
    (goal,) = table.goals
    assert goal.what == "host memory of reading, twice the clips over once"


def test_tensors_are_counted_as_they_are(tmp_path):
    layers = bench_layers(tiny=True)
    write_bench_store(tmp_path / "store", layers, codec="int8", clips=6)
    found = measure_memory(MemoryRequest(store=str(tmp_path / "store"), batch=3, steps=1, device="cpu", tiny=True))
    with TokenStore.open(tmp_path / "store") as store:
        assert found.codes == store.read([0, 1, 2]).nbytes
        model = bind_task(bench_recipe(tiny=True), store).build_model()
    assert found.heads == sum(parameter.nbytes for parameter in model.parameters())
    assert 0 < found.saved < found.peak
