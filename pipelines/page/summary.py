"""The first screen: the score with its spread, beside the paper's row and what needs no model, and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mettle_cache.errors import MettleError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.compare.groups import Groups, group_columns
from mettle_cache.pipelines.compare.intervals import Interval, widest_interval
from mettle_cache.pipelines.page.runs import PageRun, PageStore
from mettle_cache.pipelines.page.words import method_name, score_name, shorten_paths, task_words
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.report.units import count
from mettle_cache.pipelines.tables.table import Table, TableRow

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Mark:
    """A place on the ruler, in per cent of its length, and its words. ``kind`` is ours, paper or floor."""

    kind: str
    place: float
    value: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``score`` is empty where nothing was evaluated; ``band`` is the interval on the ruler, as start and width.

    ``line`` tells in a few words what was run; ``shown`` names the row whose score it is, where there are several.
    """

    title: str
    eyebrow: str
    reading: list[str]
    line: str = ""
    shown: str = ""
    score: str = ""
    metric: str = ""
    spread: str = ""
    paper: Mapping[str, Any] | None = None
    gap: str = ""
    marks: list[Mark] = field(default_factory=list)
    band: tuple[float, float] | None = None
    command: str = ""


def summarise(
    runs: Sequence[PageRun], stores: Sequence[PageStore], table: Table | None, split: str, groups: Groups | None
) -> Summary:
    """The first screen of one subject's runs; ``table`` is the first of its tables, None where nothing is evaluated."""
    first = runs[0]
    methods = list(dict.fromkeys(method_name(run.method) for run in runs))
    named = " and ".join(methods) if len(methods) < 3 else count(len(methods), "method")
    summary = Summary(
        title=f"{named} on {printable(first.dataset)}",
        eyebrow=f"{task_words(first.task).title}, {split} split",
        line=_line(runs, stores),
        reading=_not_evaluated(runs, split),
    )
    if table is None:
        option = [] if split == "test" else ["--split", split]
        return replace(summary, command=command_line("mettle evaluate", *(str(run.path) for run in runs[:3]), *option))
    row = _main_row(table)
    if row is None:
        return replace(summary, reading=[f"The training of every run failed, so there is no score on {split}."])
    of_row = [run for run in runs if run.scored and run.scored.row == row.name and run.scored.failure is None]
    return _scored(summary, table, row, of_row, groups)


def _scored(summary: Summary, table: Table, row: TableRow, runs: Sequence[PageRun], groups: Groups | None) -> Summary:
    mean, one = row.mean or 0.0, runs[0].evaluation
    paper = one["paper"] if one.get("paper") and table.metric in one["paper"]["scores"] else None
    printed = None if paper is None else float(paper["scores"][table.metric])
    interval = score_interval(runs, table.metric, groups or {})
    marks, band = _ruler(mean, interval, one, table.metric, printed)
    several = len(table.rows) > 1
    differs = list(one["differs"])
    told = [] if paper is None else [_beside_paper(mean, float(printed or 0), len(differs))]
    return replace(
        summary,
        reading=[
            *(_compared(table) if several else [_lead(table, row, runs[0].task)]),
            *_above_floor(mean, one, table),
            *told,
        ],
        shown=dict(short_names(table)).get(row.name, row.name) if several else "",
        score=f"{mean:.2f}",
        metric=score_name(table.metric),
        spread=_spread(row, interval),
        paper=None if paper is None else {**paper, "score": f"{printed}", "differences": len(differs)},
        gap="" if printed is None else signed(mean - printed),
        marks=marks,
        band=band,
    )


def signed(points: float) -> str:
    """A difference in points with its sign, as it is typeset."""
    return f"{points:+.2f}".replace("-", "\N{MINUS SIGN}")


def short_names(table: Table) -> list[tuple[str, str]]:
    """The rows' names, and what a page calls them."""
    names = [row.name for row in table.rows]
    return list(zip(names, shorten_paths(names), strict=True))


def _line(runs: Sequence[PageRun], stores: Sequence[PageStore]) -> str:
    """What was run, in a few words."""
    made = [store.facts["key"]["extraction"].get("backbones", {}) for store in stores]
    backbones = dict.fromkeys(str(one.get("architecture", "")) for prints in made for one in prints.values())
    seeds = sorted({run.config.seed for run in runs})
    codecs = dict.fromkeys(run.config.store.codec for run in runs)
    parts = [
        " and ".join(filter(None, backbones)),
        f"{' and '.join(codecs)} tokens",
        f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}",
    ]
    return printable(" · ".join(filter(None, parts)))


def score_interval(runs: Sequence[PageRun], metric: str, groups: Groups) -> Interval | None:
    """The 95 % interval of a mean score over seeds and samples, by the rule for differences; None below two seeds."""
    samples = [run.samples for run in runs]
    known = [one for one in samples if one is not None and metric in one.terms]
    if len(runs) < 2 or len(known) < len(runs):
        return None
    if any((one.rows, one.clips) != (known[0].rows, known[0].clips) for one in known):
        return None
    terms = np.stack([one.terms[metric] for one in known])
    scores = [run.scored.score(metric) for run in runs if run.scored]
    if np.abs(terms.mean(1) - scores).max() > _ROUNDING or len(set(known[0].clips)) < 2:
        return None
    try:
        return widest_interval(terms, group_columns(groups, known[0].clips))
    except MettleError:  # all samples share one group: then nothing is known of how much they vary
        return None


def _main_row(table: Table) -> TableRow | None:
    """The base, else the first row with a score."""
    scored = [row for row in table.rows if row.mean is not None]
    return next((row for row in scored if row.name == table.base), scored[0] if scored else None)


def _spread(row: TableRow, interval: Interval | None) -> str:
    seeds = count(len(row.scores), "seed")
    if row.std is None:
        return f"{seeds}: nothing tells how much seeds differ"
    between = f"; 95 % interval {max(interval.low, 0):.2f} to {min(interval.high, 100):.2f}" if interval else ""
    return f"± {row.std:.2f} over {seeds}{between}"


def _ruler(
    mean: float, interval: Interval | None, one: Mapping[str, Any], metric: str, printed: float | None
) -> tuple[list[Mark], tuple[float, float] | None]:
    """Marks on a scale from 0 to 100; nothing where a score does not lie there."""
    marks = [Mark("ours", mean, f"{mean:.2f}", "this run" if interval is None else "mean of these runs")]
    if printed is not None:
        marks.append(Mark("paper", printed, f"{printed}", "published"))
    floors = one["floors"].items() if metric == one["metric"] else []
    marks += [Mark("floor", value, f"{value:.2f}", printable(str(name))) for name, value in floors]
    if not all(0 <= mark.place <= 100 for mark in marks):
        return [], None
    if interval is None:
        return marks, None
    low, high = max(interval.low, 0.0), min(interval.high, 100.0)
    return marks, (low, high - low)


def _not_evaluated(runs: Sequence[PageRun], split: str) -> list[str]:
    epochs = max(len(run.epochs) for run in runs)
    done = f"{count(epochs, 'epoch')} trained" if epochs else "no epoch finished"
    return [f"Not scored on {split} yet ({done}), or trained on since: there is no number to show."]


def _lead(table: Table, row: TableRow, task: str) -> str:
    over = f"Over {count(table.samples, task_words(task).sample)} of {table.split}"
    score = f"{row.mean:.2f} % {score_name(table.metric)}"
    heads = len(row.scores)
    return f"{over}, this head reaches {score}." if heads == 1 else f"{over}, {heads} heads reach {score} on average."


def _above_floor(mean: float, one: Mapping[str, Any], table: Table) -> list[str]:
    """How far that is from the best that needs no model; floors are in the task's own metric."""
    floors: Mapping[str, float] = one["floors"] if table.metric == one["metric"] else {}
    if not floors:
        return []
    name, value = max(floors.items(), key=lambda floor: floor[1])
    needs = f"“{printable(name)}” needs no model and reaches {value:.2f} %"
    if mean > value:
        return [f"{needs}; the score is {mean - value:.2f} points above that."]
    return [f"{needs}: by this measure, no more than that has been learnt."]


def _beside_paper(mean: float, printed: float, differences: int) -> str:
    which = "lower" if mean > printed else "higher"
    gap = f"The published score, {printed} %, is {abs(mean - printed):.2f} points {which}"
    if not differences:
        return f"{gap}, and nothing that is known keeps the two apart."
    keep = f"{count(differences, 'difference')} keep{'s' if differences == 1 else ''}"
    return f"{gap}; {keep} the two apart, so they must not be compared."


def _compared(table: Table) -> list[str]:
    """Who is best, and whether that is more than chance."""
    scored = [row for row in table.rows if row.mean is not None]
    best = max(scored, key=lambda row: row.mean or 0.0)
    shown = dict(short_names(table))
    base = shown.get(table.base, printable(table.base))
    if best.name == table.base:
        return [
            f"Of the {count(len(scored), 'row')}, {base} has the highest mean, {best.mean:.2f} %; it is shown here."
        ]
    lead = f"Of the {count(len(scored), 'row')}, {shown[best.name]} has the highest mean, {best.mean:.2f} %"
    one = best.difference
    if one is None:
        return [f"{lead}."]
    if one.interval is None:
        return [f"{lead}: {signed(one.mean)} points from {base}, which may be chance ({one.without})."]
    between = f"{signed(one.interval.low)} to {signed(one.interval.high)}"
    sure = "and that is more than chance" if one.interval.low > 0 else "and that may be chance"
    return [f"{lead}: {signed(one.mean)} points from {base}, 95 % interval {between}, {sure}."]
