"""``mettle bench memory``: what training from an int8 store holds, taken apart; the store's size is not in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from mettle_cache.devices import choose_device
from mettle_cache.pipelines.benchmark.fullsize import bench_layers, store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.heads import bench_recipe
from mettle_cache.pipelines.benchmark.memory_child import Breakdown, MemoryRequest, measure_memory
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.table import BenchTable, Goal, Row, measured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Samples

CODEC = "int8"
# bytes on the device by clips a batch; the first is the recipe's
WANTED = {16: 4.0, 1: 1.5}
STEPS = 3
# what the host may hold more for a store of twice the clips
SAME = 1.1


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Train on one store with a whole batch and with single clips; read it and one of twice its size."""
    layers, clips = bench_layers(tiny=options.tiny), options.clips or 1
    device = choose_device(options.device)
    batch = bench_recipe(tiny=options.tiny).train.batch_size
    sizes = (clips, 2 * clips)
    with bench_folder(options, sum(store_bytes(layers, CODEC, count) for count in sizes)) as place:
        for count in sizes:
            write_bench_store(place / str(count), layers, codec=CODEC, clips=count, progress=progress)
        requests = {
            **{_training(count): _request(place / str(clips), count, STEPS, device, options) for count in (batch, 1)},
            **{_reading(count): _request(place / str(count), batch, 0, device, options) for count in sizes},
        }
        found = _take_turns(requests, options.repeats, progress)
    rows = [row for count in (batch, 1) for row in _training_rows(_training(count), found[_training(count)])]
    rings = _ring_rows([_reading(count) for count in sizes], found)
    return BenchTable(
        bench="memory",
        title=f"training AVEL from int8, batch {batch} and batch 1",
        rows=(*rows, *rings),
        goals=(*_ring_goals(rings), *([] if options.tiny else size_goals(found, (batch, 1)))),
        notes=_notes(device, batch),
        repeats=options.repeats,
    )


def _training(batch: int) -> str:
    return f"batch {batch}"


def _reading(clips: int) -> str:
    return f"ring, {clips} clips"


def _request(store: Path, batch: int, steps: int, device: torch.device, options: BenchOptions) -> MemoryRequest:
    return MemoryRequest(store=str(store), batch=batch, steps=steps, device=str(device), tiny=options.tiny)


def _take_turns(requests: dict[str, MemoryRequest], repeats: int, progress: Progress) -> dict[str, list[Breakdown]]:
    found: dict[str, list[Breakdown]] = {name: [] for name in requests}
    progress.start(repeats * len(requests), "measurements", "measure")
    for _ in range(repeats):
        for name, request in requests.items():
            found[name].append(measure_memory(request))
            progress.advance()
    progress.finish()
    return found


def _training_rows(name: str, results: Sequence[Breakdown]) -> list[Row]:
    """The whole, and its parts as shares of it."""
    whole = measured(f"{name}: everything", _gigabytes(results, lambda result: result.peak), "GB", note=_of(results))
    parts: dict[str, tuple[str, Callable[[Breakdown], int]]] = {
        "heads": ("the weights", lambda result: result.heads),
        "gradients": ("there between the backward pass and the update", lambda result: result.gradients),
        "Adam": ("two moments a weight", lambda result: result.moments),
        "codes": ("one batch; the ring holds the next one as well", lambda result: result.codes),
        "saved for backward": ("activations other than the codes", lambda result: result.saved),
        "the rest": ("the ring's other batch, workspace, what the allocator keeps", _rest),
    }
    rows = [
        measured(f"{name}: {part}", _gigabytes(results, value), "GB", of=whole, note=note)
        for part, (note, value) in parts.items()
    ]
    code = _gigabytes(results, lambda result: result.libraries)
    return [whole, *rows, measured(f"{name}: libraries", code, "GB", note="their code, loaded before the start")]


def _rest(result: Breakdown) -> int:
    return result.peak - result.heads - result.gradients - result.moments - result.codes - result.saved


def _ring_rows(names: Sequence[str], found: dict[str, list[Breakdown]]) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        samples = _gigabytes(found[name], lambda result: result.peak)
        note = f"host memory of reading alone; a batch is {found[name][0].codes / 1e9:.3f} GB"
        rows.append(measured(name, samples, "GB", of=rows[0] if rows else None, note=note))
    return rows


def size_goals(found: Mapping[str, Sequence[Breakdown]], batches: Sequence[int]) -> list[Goal]:
    """What full shapes may hold."""
    held = {count: _gigabytes(found[_training(count)], lambda result: result.peak).median for count in batches}
    return [
        Goal(what=f"{_training(count)}: everything", wanted=WANTED[count], found=peak, unit="GB", least=False)
        for count, peak in held.items()
    ]


def _ring_goals(rings: Sequence[Row]) -> list[Goal]:
    ratio = rings[1].ratio
    what = "host memory of reading, twice the clips over once"
    return [] if ratio is None else [Goal(what=what, wanted=SAME, found=ratio, least=False)]


def _notes(device: torch.device, batch: int) -> tuple[str, ...]:
    where = "process (RSS), the host's ring of batches included" if device.type == "cpu" else "device's allocations"
    return (
        f"everything: the most that the {where} held at once above the start, in {STEPS} steps",
        "no backbone is loaded; every measurement is a process of its own",
        f"the ring is read through with batches of {batch}, over all clips of the store twice",
    )


def _of(results: Sequence[Breakdown]) -> str:
    return results[0].memory_of


def _gigabytes(results: Sequence[Breakdown], value: Callable[[Breakdown], int]) -> Samples:
    return Samples(tuple(value(result) / 1e9 for result in results))
