"""The benches by name. A new one is a file with ``run(options, progress) -> BenchTable``, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module

from mettle_cache.errors import UsageError
from pipelines.benchmark.options import BenchOptions
from pipelines.benchmark.table import BenchTable
from pipelines.progress import Progress, Silent


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A bench: what it answers, where it is (imported when it is run), and how many clips it takes by default."""

    name: str
    question: str
    module: str
    clips: int
    tiny_clips: int


_KNOWN = (
    Bench(
        name="read",
        question="How near does reading tokens come to what the machine can read at all, and how near do others?",
        module="pipelines.benchmark.read",
        clips=32,
        tiny_clips=6,
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
    from pipelines.benchmark.machine import describe_machine
    from pipelines.benchmark.workplace import bench_folder

    if name not in BENCHES:
        raise UsageError(f"there is no bench '{name}'", hint=f"one of: {', '.join(BENCHES)}")
    bench = BENCHES[name]
    asked = replace(options, clips=options.clips or (bench.tiny_clips if options.tiny else bench.clips))
    table: BenchTable = import_module(bench.module).run(asked, progress or Silent())
    machine = describe_machine(bench_folder(options), options.device)
    return replace(table, machine=machine, command=asked.command(name), tiny=options.tiny, repeats=options.repeats)
