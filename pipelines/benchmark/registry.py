"""The benches by name. A new one is a file with ``run(options, progress) -> BenchTable``, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.progress import Progress, Silent

if TYPE_CHECKING:
    from mettle_cache.pipelines.benchmark.table import BenchTable


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A bench: what it measures, its module (imported when it is run), how many clips it takes by default, and whether
    it can measure a given store (:attr:`BenchOptions.store`) or a published setting (:attr:`BenchOptions.recipe`)."""

    name: str
    what: str
    module: str
    clips: int
    tiny_clips: int
    takes_store: bool = False
    takes_recipe: bool = False


_KNOWN = (
    Bench(
        name="read",
        what="Reading tokens, beside the machine's raw-read limit and other libraries.",
        module="mettle_cache.pipelines.benchmark.read",
        clips=24,
        tiny_clips=6,
    ),
    Bench(
        name="extract",
        what="A whole extraction, beside the bare backbones; and whether plan expects the right rates.",
        module="mettle_cache.pipelines.benchmark.extract",
        clips=4,
        tiny_clips=4,
    ),
    Bench(
        name="step",
        what="A training step from codes, beside stock attention, backbones in every step, and the floor.",
        module="mettle_cache.pipelines.benchmark.step",
        clips=33,
        tiny_clips=6,
    ),
    Bench(
        name="memory",
        what="What training holds in memory, and that it does not grow with the store.",
        module="mettle_cache.pipelines.benchmark.memory",
        clips=33,
        tiny_clips=9,
    ),
    Bench(
        name="codec",
        what="Bytes, errors by layer and encoding time of the codecs, on stated or on your own tokens.",
        module="mettle_cache.pipelines.benchmark.codec",
        clips=4,
        tiny_clips=2,
        takes_store=True,
    ),
    Bench(
        name="costs",
        what="Parameters, memory, time and latency of a published setting, beside the paper's tables.",
        module="mettle_cache.pipelines.benchmark.costs.bench",
        clips=4,
        tiny_clips=3,
        takes_recipe=True,
    ),
)
BENCHES: Mapping[str, Bench] = {bench.name: bench for bench in _KNOWN}


def run_bench(name: str, options: BenchOptions, progress: Progress | None = None) -> BenchTable:
    """Run one bench; every table says which machine and which command it comes from.

    Raises
    ------
    UsageError
        There is no such bench.
    NoRoomError
        Its temporary files have no room.
    """
    from mettle_cache.pipelines.benchmark.options import bench_disk
    from mettle_cache.pipelines.machine import describe_machine

    if name not in BENCHES:
        raise UsageError(f"there is no bench '{name}'", hint=f"one of: {', '.join(BENCHES)}")
    bench = BENCHES[name]
    chosen = replace(options, clips=options.clips or (bench.tiny_clips if options.tiny else bench.clips))
    table: BenchTable = import_module(bench.module).run(chosen, progress or Silent())
    machine = describe_machine(bench_disk(options), options.device)
    return replace(table, machine=machine, command=chosen.command(name), tiny=options.tiny, repeats=options.repeats)
