"""The table of ``mettle bench step``, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mettle_cache.pipelines.benchmark.limits import Floor
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.products import Products
from mettle_cache.pipelines.benchmark.step_child import StepRequest, StepResult
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.timing import Repeats

KLT_CODEC = "klt1.5"
OURS, STOCK, ONLINE = "int8, absorbed attention", "float16, stock attention", "backbones in every step, stock attention"
KLT = f"{KLT_CODEC}, absorbed attention"
# ours, as they are on a processor without tiles of bytes
FLOAT_PRODUCTS = f"{OURS}, products in float32"
KLT_FLOAT_PRODUCTS = f"{KLT}, products in float32"
ORDER = (OURS, KLT, FLOAT_PRODUCTS, KLT_FLOAT_PRODUCTS, STOCK, ONLINE)
# klt beside int8 of the same products
BESIDE = {KLT: OURS, KLT_FLOAT_PRODUCTS: FLOAT_PRODUCTS}
HEAD_COUNTS = (1, 2, 4, 8)
# steps that are timed, and those before them: the store's chunks have been compared with their checksums, once for all
# epochs, and the process has the memory that it needs
STEPS, UNTIMED = 8, 5
GOALS = {STOCK: 12.0, ONLINE: 60.0}
FLOORS, SAVED, KLT_OVER_INT8 = 2.5, 0.02, 1.2


@dataclass(frozen=True)
class Limits:
    """One measurement of the machine's limits: seconds to read a clip's bytes, and multiply-adds a second."""

    read: float
    products: float


@dataclass(frozen=True, kw_only=True)
class StepMeasurements:
    """All that was measured; ``batch`` is the recipe's.

    ``results`` lacks the variants that died. ``heads`` has seconds of a batch by the number of heads, and lacks the
    numbers of heads that memory does not hold. ``products`` are those that int8 (``OURS``) and klt (``KLT``) need.
    """

    batch: int
    device: torch.device
    requests: dict[str, StepRequest]
    results: dict[str, list[StepResult]]
    limits: list[Limits]
    heads: dict[int, list[float]]
    products: Mapping[str, Products]

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
    floors, denominators = _floors(findings)
    ours = _codes_row(findings, OURS, of=floors[OURS])
    others: list[BenchRow] = []
    for name in ORDER[1:]:
        if name in findings.requests:
            beside = next(row for row in (ours, *others) if row.variant == BESIDE.get(name, OURS))
            others.append(_variant_row(findings, name, beside))
    rows = [ours, *others, *_product_rows(findings.products)]
    rows += [*_rate_rows(findings), *_memory_rows(findings), *_head_rows(findings.heads, findings.batch)]
    return BenchTable(
        bench="step",
        title=f"one training step of AVEL, batch {findings.batch}: forward, backward, optimiser",
        rows=tuple(rows),
        denominators=tuple(denominators),
        goals=() if options.tiny else _goals(findings, ours, others),
        notes=_notes(findings),
        repeats=options.repeats,
    )


def _floors(findings: StepMeasurements) -> tuple[dict[str, BenchRow], list[BenchRow]]:
    """The floors of int8 and klt, and all rows that they are made of."""
    updates = findings.of(OURS, lambda result: result.optimiser)
    sizes = {name: findings.results[name][0].tokens for name in findings.products if name in findings.results}
    rows: dict[str, BenchRow] = {}
    for name, size in sizes.items():
        floors = [
            Floor(
                read=limit.read * size / sizes[OURS],
                products=findings.products[name].total / limit.products,
                optimiser=update / findings.batch,
            )
            for limit, update in zip(findings.limits, updates.values, strict=True)
        ]
        middle = sorted(floors, key=lambda floor: floor.seconds)[len(floors) // 2]
        title = "floor" if name == OURS else f"floor, {KLT_CODEC}"
        rows[name] = measured(title, Repeats(tuple(f.seconds for f in floors)), "s/clip", note=middle.describe())
    nbytes, needed = sizes[OURS] / findings.batch, findings.products[OURS].total
    return rows, [
        measured("raw reads", Repeats(tuple(nbytes / limit.read / 1e9 for limit in findings.limits)), "GB/s"),
        measured(
            "matrix products, float32",
            Repeats(tuple(limit.products / 1e9 for limit in findings.limits)),
            "G/s",
            note=f"multiply-adds; a clip of int8 needs {needed / 1e9:.2f} G",
        ),
        measured("optimiser step", updates, "s", note="one update of all weights by Adam"),
        *rows.values(),
    ]


def _codes_row(findings: StepMeasurements, name: str, of: BenchRow) -> BenchRow:
    kernels = findings.results[name][0].kernels
    note = f"batch {findings.requests[name].batch}; {kernels}"
    return measured(name, findings.seconds(name), "s/clip", of=of, note=note)


def _variant_row(findings: StepMeasurements, name: str, beside: BenchRow) -> BenchRow:
    if name not in findings.results:
        return unmeasured(name, "s/clip", "its process died: see the notes of the run")
    if name not in (STOCK, ONLINE):
        return _codes_row(findings, name, of=beside)
    clips = findings.requests[name].batch
    note = f"batch {clips}" if clips == findings.batch else f"batch {clips}, an update's share scaled"
    if name == ONLINE:
        backbone = findings.of(name, lambda result: result.backbone / clips)
        note += f"; {backbone.median:.2f} s are the backbones'"
    return measured(name, findings.seconds(name), "s/clip", of=beside, note=note)


def _product_rows(products: Mapping[str, Products]) -> list[BenchRow]:
    """Multiply-adds of a clip, counted: nothing is measured here."""
    ours, klt = products[OURS], products[KLT]

    def row(what: str, count: int, of: BenchRow | None = None, note: str = "") -> BenchRow:
        return measured(f"multiply-adds a clip: {what}", Repeats((count / 1e9,)), "G", of=of, note=note)

    first = row("int8, with codes", ours.tokens, note="forward and backward; counted, not measured")
    return [
        first,
        row("int8, projections", ours.projections, note="klt's are the same"),
        row(f"{KLT_CODEC}, with codes", klt.tokens, first),
        row(f"{KLT_CODEC}, through the bases", klt.carried, note="value matrices for components made once a step"),
        row(f"{KLT_CODEC}, through the bases one by one", klt.carried_each, note="every context and its gradient"),
    ]


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
    for row in others:
        if row.variant == KLT and row.ratio is not None:
            # it was set for tiles of bytes
            kernels = findings.results[KLT][0].kernels
            what = f"{KLT}, over int8 ({kernels})"
            goals.append(Goal(what=what, wanted=KLT_OVER_INT8, found=row.ratio, least=False))
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
        "a floor's products are those of LCD alone, in the best case for the tokens' side",
        f"the goal of {KLT_OVER_INT8} times int8's seconds was set for processors with tiles of bytes",
    )
