"""``mettle bench step``: a training step from an int8 store, beside the two ways that it replaces and the floor.

Every measurement is a new process, one at a time and in turns, so that it counts the memory of one variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mettle_cache.devices import choose_device
from mettle_cache.errors import RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.pipelines.benchmark.child_process import available_memory
from mettle_cache.pipelines.benchmark.fullsize import SEGMENTS, bench_layers, store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.heads import bench_recipe
from mettle_cache.pipelines.benchmark.limits import Floor, RawReader, matmul_rate, necessary_products
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.readers import THREADS, token_files
from mettle_cache.pipelines.benchmark.step_child import (
    HeadsRequest,
    StepRequest,
    StepResult,
    measure_heads,
    measure_steps,
    timed,
)
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Repeats

CODEC_NAMES = ("int8", "float16")
OURS, STOCK, ONLINE = "int8, absorbed attention", "float16, stock attention", "backbones in every step, stock attention"
# ours, as it is on a processor without tiles of bytes
FLOAT_PRODUCTS = "int8, absorbed attention, products in float32"
HEAD_COUNTS = (1, 2, 4, 8)
# a backbone's forward pass takes seconds a clip on a CPU, and one clip after the other as long as several at once
ONLINE_CLIPS_ON_CPU = 1
# of the memory that is free, what a batch may fill
FILLED = 0.8
# steps that are timed, and those before them: the store's chunks have been compared with their checksums, once for all
# epochs, and the process has the memory that it needs
STEPS, UNTIMED = 8, 5
MATRIX, TINY_MATRIX = 1024, 64
GOALS = {STOCK: 12.0, ONLINE: 60.0}
FLOORS, SAVED = 2.5, 0.02


@dataclass(frozen=True)
class Limits:
    """One measurement of the machine's limits: seconds to read a clip's bytes, and multiply-adds a second."""

    read: float
    products: float


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write the stores, find the batches that fit, and measure everything in turns."""
    layers, clips = bench_layers(tiny=options.tiny), options.clips or 1
    device = choose_device(options.device)
    batch = bench_recipe(tiny=options.tiny).train.batch_size
    with bench_folder(options, sum(store_bytes(layers, codec, clips) for codec in CODEC_NAMES)) as place:
        for codec in CODEC_NAMES:
            write_bench_store(place / codec, layers, codec=codec, clips=clips, progress=progress)
        requests = _requests(place, batch, device, options.tiny)
        limit = _limit_probe(place / "int8", clips, batch, device, options.tiny)
        results, limits = take_turns(requests, limit, options.repeats, progress)
        progress.note(f"heads that share a pass: {', '.join(map(str, HEAD_COUNTS))}")
        heads = measure_heads(
            HeadsRequest(
                store=str(place / "int8"),
                batch=batch,
                counts=HEAD_COUNTS,
                repeats=options.repeats,
                device=str(device),
                tiny=options.tiny,
                untimed=UNTIMED,
            )
        )
    findings = StepMeasurements(
        layers=layers, batch=batch, device=device, requests=requests, results=results, limits=limits, heads=heads
    )
    return step_table(findings, options)


def _requests(place: Path, batch: int, device: torch.device, tiny: bool) -> dict[str, StepRequest]:
    """The request of each variant: a batch of the recipe's size, or the largest that memory holds."""
    ours = StepRequest(
        store=str(place / "int8"),
        attention="absorbed",
        batch=batch,
        steps=STEPS,
        device=str(device),
        tiny=tiny,
        untimed=UNTIMED,
    )
    # these take a minute each, of which neither is a noticeable part
    stock = replace(ours, store=str(place / "float16"), attention="stock", steps=1, untimed=1)
    online = replace(stock, store=None, batch=batch if tiny else ONLINE_CLIPS_ON_CPU)
    floats = {FLOAT_PRODUCTS: replace(ours, byte_tiles=False)} if device.type == "cpu" and has_byte_tiles() else {}
    if tiny:
        return {OURS: ours, **floats, STOCK: stock, ONLINE: online}
    stock = replace(stock, batch=_largest_batch(stock, batch, device))
    if device.type != "cpu":
        online = replace(online, batch=_largest_batch(online, batch, device))
    return {OURS: ours, **floats, STOCK: stock, ONLINE: online}


def _largest_batch(request: StepRequest, most: int, device: torch.device) -> int:
    one, two = (measure_steps(replace(request, batch=clips)).peak for clips in (1, 2))
    return fitting_batch(one, two, most=most, room=int(FILLED * available_memory(device)))


def fitting_batch(one: int, two: int, *, most: int, room: int) -> int:
    """The largest batch, up to ``most``, that takes no more than ``room`` bytes, from what one and two clips take."""
    return max(1, min(most, 1 + (room - one) // max(two - one, 1)))


def _limit_probe(store: Path, clips: int, batch: int, device: torch.device, tiny: bool) -> Callable[[], Limits]:
    files = token_files(store, range(clips))
    nbytes = sum(file.stat().st_size for file in files)
    reader = RawReader(files, threads=THREADS, memory=batch * nbytes // clips)
    reader.read()
    side = TINY_MATRIX if tiny else MATRIX

    def probe() -> Limits:
        seconds = timed(reader.read, torch.device("cpu"))
        return Limits(seconds / clips, matmul_rate(side, side, side, device=device))

    return probe


def take_turns(
    requests: dict[str, StepRequest], limit: Callable[[], Limits], repeats: int, progress: Progress
) -> tuple[dict[str, list[StepResult]], list[Limits]]:
    """All variants and the machine's limits, ``repeats`` times; a variant that dies is left out from then on."""
    results: dict[str, list[StepResult]] = {name: [] for name in requests}
    limits = []
    progress.start(repeats * len(requests), "measurements", "measure")
    for number in range(repeats):
        limits.append(limit())
        names, first = list(results), number % max(len(results), 1)
        for name in names[first:] + names[:first]:
            try:
                results[name].append(measure_steps(requests[name]))
            except RunError as error:
                if name == OURS:
                    raise
                progress.note(f"{name}: {error}")
                del results[name]
            progress.advance()
    progress.finish()
    return results, limits


@dataclass(frozen=True, kw_only=True)
class StepMeasurements:
    """All that was measured; ``batch`` is the recipe's.

    ``results`` lacks the variants that died. ``heads`` has seconds of a batch by the number of heads, and lacks the
    numbers of heads that memory does not hold.
    """

    layers: Sequence[LayerSpec]
    batch: int
    device: torch.device
    requests: dict[str, StepRequest]
    results: dict[str, list[StepResult]]
    limits: list[Limits]
    heads: dict[int, list[float]]

    def seconds(self, name: str) -> Repeats:
        """Seconds of one clip; an update is divided by the recipe's batch, even where a smaller one was measured."""
        clips = self.requests[name].batch
        return Repeats(
            tuple(
                (result.seconds - result.optimiser) / clips + result.optimiser / self.batch
                for result in self.results[name]
            )
        )

    def of(self, name: str, value: Callable[[StepResult], float]) -> Repeats:
        return Repeats(tuple(value(result) for result in self.results[name]))


def step_table(findings: StepMeasurements, options: BenchOptions) -> BenchTable:
    """The table: seconds a clip beside the floor, rates, memory, what is saved, and heads that share a pass."""
    floor, denominators = _floor(findings)
    ours = measured(OURS, findings.seconds(OURS), "s/clip", of=floor, note=f"batch {findings.batch}")
    others = [
        _variant_row(findings, name, ours) for name in (FLOAT_PRODUCTS, STOCK, ONLINE) if name in findings.requests
    ]
    rows = [ours, *others, *_rate_rows(findings), *_memory_rows(findings), *_head_rows(findings.heads, findings.batch)]
    return BenchTable(
        bench="step",
        title=f"one training step of AVEL, batch {findings.batch}: forward, backward, optimiser",
        rows=tuple(rows),
        denominators=tuple(denominators),
        goals=() if options.tiny else _goals(findings, ours, others),
        notes=_notes(findings),
        repeats=options.repeats,
    )


def _floor(findings: StepMeasurements) -> tuple[BenchRow, list[BenchRow]]:
    recipe = bench_recipe(tiny=findings.requests[OURS].tiny)
    products = necessary_products(findings.layers, recipe, segments=SEGMENTS)
    updates = findings.of(OURS, lambda result: result.optimiser)
    floors = [
        Floor(read=limit.read, products=products / limit.products, optimiser=update / findings.batch)
        for limit, update in zip(findings.limits, updates.values, strict=True)
    ]
    middle = sorted(floors, key=lambda floor: floor.seconds)[len(floors) // 2]
    nbytes = findings.results[OURS][0].tokens / findings.batch
    row = measured("floor", Repeats(tuple(f.seconds for f in floors)), "s/clip", note=middle.describe())
    return row, [
        measured("raw reads", Repeats(tuple(nbytes / limit.read / 1e9 for limit in findings.limits)), "GB/s"),
        measured(
            "matrix products, float32",
            Repeats(tuple(limit.products / 1e9 for limit in findings.limits)),
            "G/s",
            note=f"multiply-adds; a clip needs {products / 1e9:.2f} G",
        ),
        measured("optimiser step", updates, "s", note="one update of all weights by Adam"),
        row,
    ]


def _variant_row(findings: StepMeasurements, name: str, ours: BenchRow) -> BenchRow:
    if name not in findings.results:
        return unmeasured(name, "s/clip", "its process died: see the notes of the run")
    clips = findings.requests[name].batch
    note = f"batch {clips}" if clips == findings.batch else f"batch {clips}, an update's share scaled"
    if name == ONLINE:
        backbone = findings.of(name, lambda result: result.backbone / clips)
        note += f"; {backbone.median:.2f} s are the backbones'"
    return measured(name, findings.seconds(name), "s/clip", of=ours, note=note)


def _rate_rows(findings: StepMeasurements) -> list[BenchRow]:
    return [measured(f"{name}: rate", findings.seconds(name).rate(1), "clips/s") for name in findings.results]


def _memory_rows(findings: StepMeasurements) -> list[BenchRow]:
    rows = []
    for name, results in findings.results.items():
        peak = findings.of(name, lambda result: result.peak / 1e9)
        note = f"{results[0].memory_of}, batch {findings.requests[name].batch}"
        rows.append(measured(f"{name}: memory", peak, "GB", note=note))
    for name in findings.results:
        saved = findings.of(name, lambda result: 100 * result.saved / result.tokens)
        rows.append(measured(f"{name}: saved for backward", saved, "%", note="of the tokens' bytes as they came"))
    return rows


def _head_rows(heads: dict[int, list[float]], batch: int) -> list[BenchRow]:
    rows: list[BenchRow] = []
    for count in HEAD_COUNTS:
        name = f"{count} head{'' if count == 1 else 's'} from one pass, each"
        if count not in heads:
            rows.append(unmeasured(name, "s/clip", "memory does not hold so many"))
            continue
        each = Repeats(tuple(seconds / count / batch for seconds in heads[count]))
        rows.append(measured(name, each, "s/clip", of=rows[0] if rows else None))
    return rows


def _goals(findings: StepMeasurements, ours: BenchRow, others: Sequence[BenchRow]) -> tuple[Goal, ...]:
    saved = findings.of(OURS, lambda result: result.saved / result.tokens).median
    goals = [Goal(what="saved for backward, of the tokens' bytes", wanted=SAVED, found=saved, least=False)]
    if findings.device.type != "cpu":
        # the other goals were set for a CPU
        return tuple(goals)
    for row in others:
        if row.ratio is not None and row.variant in GOALS:
            goals.append(Goal(what=f"{row.variant}, over ours", wanted=GOALS[row.variant], found=row.ratio))
    if ours.ratio is not None:
        goals.append(Goal(what="ours, over the floor", wanted=FLOORS, found=ours.ratio, least=False))
    return tuple(goals)


def _notes(findings: StepMeasurements) -> tuple[str, ...]:
    threads = f"PyTorch on {torch.get_num_threads()} threads; " if findings.device.type == "cpu" else ""
    return (
        f"device {findings.device}; {threads}every measurement in a new process: ours of {STEPS} steps after "
        f"{UNTIMED} that are not counted, in which the store's checksums are compared once; others of one after one",
        "memory is above that of a process that has loaded the libraries",
        "from a store, a step waits for its batch; online, the inputs are ready and decoding media is not counted",
        "the floor's products are those of LCD alone, in the best case for the tokens' side",
    )
