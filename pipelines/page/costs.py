"""What the runs have cost: bytes of the store, hours and memory of training, and what this machine could give."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mettle_cache.errors import StoreError
from mettle_cache.pipelines.machine import cpu_model, disk_kind
from mettle_cache.pipelines.page.runs import PageRun, PageStore
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.report.units import count, format_bytes, format_rate, format_seconds
from mettle_cache.store.reading.disk_speed import measure_read_speed
from mettle_cache.store.writing.durable import disk_folder

_PROBE_BYTES = 64 << 20

TRAINING = ("run", "trained parameters", "optimiser steps", "clips a second", "peak memory")


def training_rows(runs: Sequence[PageRun]) -> list[list[str | None]]:
    """A row a run: what training has left of it in its folder; None where it has left nothing."""
    rows: list[list[str | None]] = []
    for run in runs:
        one = run.training
        memory = one.get("peak_memory_bytes")
        rows.append(
            [
                printable(run.label),
                f"{one['parameters']:,}" if one.get("parameters") else None,
                _step_time(run),
                format_rate(float(one["clips_per_second"])) if one.get("clips_per_second") else None,
                f"{format_bytes(memory)}, {one['peak_memory_of']}" if memory else None,
            ]
        )
    return rows


def _step_time(run: PageRun) -> str | None:
    """How long the epochs' optimiser steps took, from their rates; loading and scoring come on top."""
    samples = run.training.get("samples", {}).get("train")
    rates = [row.get("clips_per_second") for row in run.epochs]
    if not samples or not rates or not all(rates):
        return None
    return format_seconds(sum(samples / rate for rate in rates if rate))


def store_rows(store: PageStore) -> list[tuple[str, str]]:
    """Bytes and files of a store, in words."""
    facts = store.facts
    failed = len(facts["failed"])
    rows = [
        ("Store", f"{store.path.name}, {facts['codec']}"),
        ("Bytes", f"{format_bytes(facts['nbytes'])}, {format_bytes(facts['bytes_per_clip'])} a clip"),
        ("Clips", f"{facts['committed']:,} of {facts['clips']:,}" + (f", {failed:,} failed" if failed else "")),
        ("Files", f"{facts['files']:,}"),
    ]
    rows += [("Static arrays", format_bytes(facts["static_bytes"]))] if facts["static_bytes"] else []
    used = [one for one in facts["companions"] if one["state"] == "finished"]
    if used:
        rows.append(("Beside it", ", ".join(f"{one['name']}: {format_bytes(one['nbytes'])}" for one in used)))
    return rows


def machine_rows(stores: Sequence[PageStore], runs: Sequence[PageRun], out: Path) -> list[tuple[str, str]]:
    """What the machine that makes the page has, and what its disk gives, measured now.

    The disk is that of the first store, else that of the page.
    """
    from mettle_cache.pipelines.doctor import examine_device, examine_memory, examine_products

    rows = [
        ("Processor", cpu_model()),
        ("Device", examine_device().found.split(":")[0]),
        ("Cores and memory", examine_memory().found),
        ("Products of codes", examine_products().found),
    ]
    place = disk_folder(stores[0].path.parent if stores else out)
    rows.append(("Disk", disk_kind(place)))
    try:
        speed = measure_read_speed(place, nbytes=_PROBE_BYTES)
    except StoreError as error:
        return [*rows, ("Disk, cold reads", f"not measured: {error.message}")]
    return [*rows, ("Disk, cold reads", f"{format_bytes(speed)}/s{_limit(speed, stores, runs)}")]


def _limit(speed: float, stores: Sequence[PageStore], runs: Sequence[PageRun]) -> str:
    """What that speed means for the tokens of a clip, beside what training took."""
    each = int(stores[0].facts["bytes_per_clip"]) if stores else 0
    if not each:
        return ""
    rates = [float(run.training["clips_per_second"]) for run in runs if run.training.get("clips_per_second")]
    took = f"; training took {format_rate(statistics.fmean(rates))} on the machine that it ran on" if rates else ""
    return f": {format_rate(speed / each)} clips a second of all layers{took}"


def cost_section(runs: Sequence[PageRun], stores: Sequence[PageStore], out: Path) -> dict[str, Any]:
    """The section as the template reads it."""
    published = [run.evaluation["paper"] for run in runs if run.evaluation.get("paper")]
    paper = next((row for row in published if row.get("total_m") is not None), None)
    distinct = list({str(store.path): store for store in stores}.values())
    notes = [
        "Optimiser steps: the time of all epochs' steps, from their rates. Loading and scoring come on top; heads that "
        "were trained together share it.",
        "How long the extraction took is in no record; mettle plan measures it where it runs.",
    ]
    if paper:
        share = "" if paper["trainable_percent"] is None else f", {paper['trainable_percent']} % of them trained"
        notes.append(
            f"The paper prints {paper['total_m']} M parameters for {paper['setting']}, backbones included{share}."
        )
    return {
        "columns": TRAINING,
        "rows": training_rows(runs),
        "stores": [store_rows(store) for store in distinct],
        "machine": machine_rows(distinct, runs, out),
        "notes": notes,
        "title": count(len(runs), "run"),
    }
