"""A tiny run of the costs' bench, and what it leaves out."""

import pytest
import torch

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.benchmark.costs import bench
from mettle_cache.pipelines.benchmark.costs.bench import count_parameters, no_room, take_turns, too_large
from mettle_cache.pipelines.benchmark.costs.child import CostResult
from mettle_cache.pipelines.benchmark.costs.setting import find_setting
from mettle_cache.pipelines.benchmark.costs.variants import CODECS, ONLINE_NAME, cost_variants
from mettle_cache.pipelines.benchmark.options import BenchOptions
from tests.pipelines.listener import Listener

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tiny_bench):
    return tiny_bench("costs", methods=("linear", "lavish"), batch=2)


def test_memory_time_and_inference_are_measured_of_what_was_asked_for(table):
    for name in ("linear from int8", "lavish"):
        memory, saved, step = (
            table.row(f"{what}: {name}")
            for what in ("memory a sample", "saved for backward, a sample", "a step, a sample")
        )
        assert (memory.unit, saved.unit, step.unit) == ("GB", "GB", "ms")
        assert min(memory.value, saved.value, step.value) > 0
        assert memory.note == "RSS of a process of its own"
    assert table.row("inference, head alone: linear from int8").value > 0
    assert table.row("inference with backbones: lavish").value > 0
    names = {row.variant for row in table.rows}
    # a linear probe has nothing to fold, and no backbone stood before the head
    assert not {"inference, folded head alone: linear from int8", "inference with backbones: linear from int8"} & names
    assert (
        table.command
        == "mettle bench costs --repeats 1 --clips 3 --tiny --device cpu --method linear --method lavish --batch 2"
    )


def test_a_graph_through_the_blocks_is_what_adapters_keep(table):
    """Even of toy backbones, many times what a probe and the decoder, which both have, keep for stored tokens."""
    ours, adapters = (
        table.row(f"saved for backward, a sample: {name}").value for name in ("linear from int8", "lavish")
    )
    assert adapters > 20 * ours


def test_the_papers_numbers_stand_beside_with_their_own_ratios(table):
    row = table.row("memory a sample: the paper's LAVisH")
    assert (row.value, row.note) == (11.9, "Table 1, on one NVIDIA A100-SXM4-40GB")
    assert row.ratio == pytest.approx(11.9 / 1.5)
    assert table.row("inference with backbones: the paper's Mettle").value == 84.4
    assert table.goals == ()


@pytest.mark.slow
def test_latency_alone_trains_nothing(tiny_bench):
    table = tiny_bench("costs", methods=("lcd",), latency=True)
    names = {row.variant for row in table.rows}
    assert not {name for name in names if name.startswith(("memory", "saved", "a step"))}
    for codec in CODECS:
        whole, folded = (table.row(f"inference, {what} alone: lcd from {codec}") for what in ("head", "folded head"))
        assert min(whole.value, folded.value) > 0
    assert table.row(f"inference with backbones: {ONLINE_NAME}").value > 0


def test_what_a_setting_cannot_have_is_left_out_with_the_reason():
    counts, unfit = count_parameters(find_setting("avs-s4-swin-htsat"), ["lcd", "lavish"])
    assert list(counts) == ["lcd"]
    assert unfit == {"lavish": "adapters are not measured for segmentation, whose head gives tokens no gradient"}
    counts, unfit = count_parameters(find_setting("ave-resnext-htsat"), ["lavish"])
    assert "cannot be paired" in unfit["lavish"]


@pytest.mark.parametrize(
    ("method", "message"),
    [("nosuch", "--method nosuch: no such method for"), ("lst", "--method lst: no such method for")],
)
def test_methods_that_a_task_does_not_take_are_refused(method, message, tmp_path):
    options = BenchOptions(recipe="avs-s4-swin-htsat", methods=(method,), folder=tmp_path)
    with pytest.raises(UsageError, match=message) as raised:
        bench.run(options, Listener())
    assert raised.value.hint.startswith("one of: ")
    assert {"lcd", "linear", "lavish"} <= set(raised.value.hint.removeprefix("one of: ").split(", "))


def test_adapters_are_left_out_where_memory_does_not_hold_their_graph(monkeypatch):
    assert no_room(10, 12, frames=10, room=28) == {}
    reason = "its graph needs about 28 B, and 27 B may be filled here"
    assert no_room(10, 12, frames=10, room=27) == {"lavish": reason}
    asked = []
    monkeypatch.setattr(bench, "probe_memory", lambda probe: asked.append(probe.frames) or 10**9 * probe.frames)
    monkeypatch.setattr(bench, "available_memory", lambda _: 10 * 10**9)
    assert too_large(find_setting("llp-swin-htsat"), 2, CPU) == {
        "lavish": "its graph needs about 20.0 GB, and 8.0 GB may be filled here"
    }
    assert asked == [1, 2]


def test_a_variant_that_dies_is_left_out_and_said(monkeypatch, tmp_path):
    setting = find_setting(None, tiny=True)
    variants = cost_variants(setting, ["lcd"], tmp_path, CPU, BenchOptions(tiny=True))
    assert [variant.name for variant in variants][-1] == ONLINE_NAME

    def measure(request):
        if request.source == "backbones":
            raise RunError("a process of the bench was ended by SIGKILL")
        return CostResult(head=1.0)

    monkeypatch.setattr(bench, "measure_cost", measure)
    listener = Listener()
    results = take_turns(variants, 2, listener)
    assert {name: len(found) for name, found in results.items()} == {f"lcd from {codec}": 2 for codec in CODECS}
    assert listener.notes == [f"{ONLINE_NAME}: a process of the bench was ended by SIGKILL"]
