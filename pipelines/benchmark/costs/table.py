"""The table of ``mettle bench costs``: what was measured, quantity by quantity, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mettle_cache.pipelines.benchmark.costs.child import CostResult
from mettle_cache.pipelines.benchmark.costs.published import (
    ENCODERS,
    HARDWARE,
    OURS,
    PublishedCost,
    published_costs,
    published_inference,
)
from mettle_cache.pipelines.benchmark.costs.setting import CostSetting
from mettle_cache.pipelines.benchmark.costs.variants import CODEC, ONLINE_NAME, Variant, cached_name
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured, unmeasured
from mettle_cache.pipelines.timing import Repeats

MEMORY, STEP = "memory a sample", "a step, a sample"
INFERENCE, HEAD, FOLDED = "inference with backbones", "inference, head alone", "inference, folded head alone"
TRAINABLE, TOTAL, SHARE = "trainable parameters", "all parameters", "trainable share"
BASE = cached_name("lcd", CODEC)


@dataclass(frozen=True)
class ParameterCount:
    """``trained`` here, and ``total`` and trainable ``share`` (0 to 1) counted as the paper does."""

    trained: int
    total: int
    share: float


@dataclass(frozen=True, kw_only=True)
class CostMeasurements:
    """All that was measured, with ``batch`` samples a step.

    ``results`` are by variant, and lack those that died. ``parameters`` are by method. ``unfit`` has the reasons of
    those variants that were not tried.
    """

    setting: CostSetting
    batch: int
    device: torch.device
    variants: Sequence[Variant]
    results: Mapping[str, Sequence[CostResult]]
    parameters: Mapping[str, ParameterCount]
    unfit: Mapping[str, str]


@dataclass(frozen=True)
class _Quantity:
    """A column of the paper's tables: what of a result it is, and what of a published line."""

    name: str
    unit: str
    of: Callable[[CostResult, int], float | None]
    published: Callable[[PublishedCost], float | None] = lambda _row: None


_TRAINING = (
    _Quantity(MEMORY, "GB", lambda r, batch: _scaled(r.peak, 1e-9 / batch), lambda row: row.memory_gb),
    _Quantity("saved for backward, a sample", "GB", lambda r, batch: _scaled(r.saved, 1e-9 / batch)),
    _Quantity(STEP, "ms", lambda r, batch: _scaled(r.seconds, 1e3 / batch), lambda row: row.runtime_ms),
)
_INFERENCE = (
    _Quantity(INFERENCE, "ms", lambda r, _batch: _scaled(r.whole, 1e3)),
    _Quantity(HEAD, "ms", lambda r, _batch: _scaled(r.head, 1e3)),
    _Quantity(FOLDED, "ms", lambda r, _batch: _scaled(r.folded, 1e3)),
)


def cost_table(findings: CostMeasurements, options: BenchOptions) -> BenchTable:
    """The table: parameters, memory and time of training, and inference; the paper's lines after ours."""
    costs = published_costs(findings.setting.row.setting, findings.setting.task)
    rows = _parameter_rows(findings, costs)
    for quantity in _TRAINING:
        if not options.latency:
            rows += _measured_rows(findings, quantity)
            rows += _paper_rows(quantity, {name: quantity.published(row) for name, row in costs.items()}, costs)
    for quantity in _INFERENCE:
        rows += _measured_rows(findings, quantity)
        if quantity.name == INFERENCE:
            rows += _paper_rows(quantity, published_inference(findings.setting.row.setting, findings.setting.task), {})
    rows += [unmeasured(name, "", reason) for name, reason in findings.unfit.items()]
    title = f"what {findings.setting.row.setting} costs, batch {findings.batch}, beside the paper"
    return BenchTable(
        bench="costs",
        title=title,
        rows=tuple(rows),
        goals=() if options.tiny or options.latency else cost_goals(rows, costs),
        notes=_notes(findings),
        repeats=options.repeats,
    )


def _parameter_rows(findings: CostMeasurements, costs: Mapping[str, PublishedCost]) -> list[BenchRow]:
    counts = findings.parameters
    published = {variant.method: variant.published for variant in findings.variants}
    printed = {method: costs.get(published[method] or "") for method in counts}
    rows = []
    for name, unit, ours, theirs in (
        (TRAINABLE, "M", lambda c: c.trained / 1e6, lambda _: None),
        (TOTAL, "M", lambda c: c.total / 1e6, lambda row: row.total_m),
        (SHARE, "%", lambda c: 100 * c.share, lambda row: row.trainable_percent),
    ):
        for method, count in counts.items():
            line = printed[method]
            note = "" if line is None or theirs(line) is None else f"the paper's {line.method}: {theirs(line)}"
            rows.append(measured(f"{name}: {method}", Repeats((ours(count),)), unit, note=note))
    return rows


def _measured_rows(findings: CostMeasurements, quantity: _Quantity) -> list[BenchRow]:
    rows: dict[str, BenchRow] = {}
    for variant in findings.variants:
        values = [quantity.of(result, findings.batch) for result in findings.results.get(variant.name, ())]
        known = tuple(value for value in values if value is not None)
        if known:
            name = f"{quantity.name}: {variant.name}"
            note = _note(quantity, findings.results[variant.name])
            rows[variant.name] = measured(name, Repeats(known), quantity.unit, of=rows.get(variant.beside), note=note)
    return list(rows.values())


def _note(quantity: _Quantity, results: Sequence[CostResult]) -> str:
    if quantity.name == MEMORY:
        return results[0].memory_of
    backbone = [result.backbone for result in results if result.backbone]
    if quantity.name == STEP and backbone:
        return f"{1000 * Repeats(tuple(backbone)).median:.0f} ms of a whole step are the backbones' forward passes"
    return ""


def _paper_rows(
    quantity: _Quantity, values: Mapping[str, float | None], costs: Mapping[str, PublishedCost]
) -> list[BenchRow]:
    """The paper's own numbers, each over that of its Mettle."""
    ours = values.get(OURS)
    rows = []
    for method, value in sorted(values.items(), key=lambda item: item[0] != OURS):
        if value is not None:
            source = f"Table {costs[method].table}" if method in costs else "Table 16"
            rows.append(
                BenchRow(
                    variant=f"{quantity.name}: the paper's {method}",
                    value=value,
                    unit=quantity.unit,
                    ratio=value / ours if ours and method != OURS else None,
                    denominator=f"{quantity.name}: the paper's {OURS}" if ours and method != OURS else None,
                    note=f"{source}, on one {HARDWARE}",
                )
            )
    return rows


def cost_goals(rows: Sequence[BenchRow], costs: Mapping[str, PublishedCost]) -> tuple[Goal, ...]:
    """Adapters inside of the backbones over lcd from the store must cost at least what they cost over the paper's.

    None where the paper has no line of theirs, or one of the two was not measured.
    """
    values = {row.variant: row.value for row in rows}
    goals = []
    for quantity in _TRAINING:
        ours, adapters = (values.get(f"{quantity.name}: {name}") for name in (BASE, "lavish"))
        printed = [quantity.published(costs[name]) for name in ("LAVisH", OURS) if name in costs]
        if ours and adapters and len(printed) == 2 and printed[0] and printed[1]:
            what = f"{quantity.name}: lavish over {BASE}, as the paper's LAVisH over its {OURS}"
            goals.append(Goal(what=what, wanted=round(printed[0] / printed[1], 2), found=adapters / ours))
    return tuple(goals)


def _notes(findings: CostMeasurements) -> tuple[str, ...]:
    setting, device = findings.setting, findings.device
    threads = f", PyTorch on {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"device {device}{threads}; every measurement in a process of its own, backbones with random weights",
        f"memory: the most that is held while training above a process that has loaded the libraries: weights (of the "
        f"backbones, too, where they run), gradients, Adam's moments, tokens and activations; over {findings.batch} "
        "samples a batch, as the paper divides by its batch",
        "a step: forward, backward and optimiser, and waiting for the tokens; over the samples of the batch",
        "inference: one sample; the head alone takes tokens that are in memory, and media are decoded already",
        "all parameters: whole checkpoints with their classifiers, as the paper counts, and our head",
        f"{ONLINE_NAME}: frozen, without a graph; lavish: adapters in every block of both backbones, so that gradients "
        "go through all of them; its decoder is the recipe's on the last blocks' mean tokens",
        f"the paper's numbers are those of {ENCODERS[setting.row.setting]}, with backbones in every step",
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
