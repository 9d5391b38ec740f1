"""The parts of a page that compare: scores beside the paper's, variants beside one another, and curves."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mettle_cache.pipelines.page.runs import PageRun
from mettle_cache.pipelines.page.summary import short_names, signed
from mettle_cache.pipelines.page.words import method_name, score_name, shorten_paths
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.tables.scored_runs import ScoredRun
from mettle_cache.pipelines.tables.table import Table, TableRow
from mettle_cache.pipelines.tables.writing import lines_below, table_cells

_MOST_COLUMNS = 6
_KINDS = {
    "backbones": "Backbones",
    "data": "Data",
    "protocol": "Protocol",
    "weights": "Weights",
    "tokens": "Tokens",
    "recipe": "Recipe",
    "sound": "Sound",
}


def score_table(runs: Sequence[PageRun]) -> dict[str, Any]:
    """Every score of up to six variants, means over their seeds, beside the published ones."""
    scored = [run.scored for run in runs if run.scored and run.scored.failure is None]
    variants: dict[str, list[ScoredRun]] = {}
    for run in scored:
        variants.setdefault(run.row, []).append(run)
    shown = dict(list(variants.items())[:_MOST_COLUMNS])
    names = list(dict.fromkeys(name for run in scored for name in run.evaluation["scores"]))
    paper: Mapping[str, float] = next(
        (run.evaluation["paper"]["scores"] for run in scored if run.evaluation.get("paper")), {}
    )
    rows = [
        {
            "name": score_name(name),
            "ours": [_mean([run.evaluation["scores"].get(name) for run in members]) for members in shown.values()],
            "paper": paper.get(name),
            "main": bool(scored) and name == scored[0].evaluation["metric"],
        }
        for name in names
    ]
    return {
        "columns": shorten_paths(list(shown)),
        "left_out": len(variants) - len(shown),
        "rows": rows,
        "paper": bool(paper),
    }


def _mean(scores: Sequence[float | None]) -> dict[str, str] | None:
    known = [score for score in scores if score is not None]
    if not known:
        return None
    spread = f"± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return {"mean": f"{statistics.fmean(known):.2f}", "spread": spread}


def sorted_differences(tables: Sequence[Table]) -> list[tuple[str, list[str]]]:
    """Sentences on what separates the runs from the paper's, by the word before their colon, rows by short names."""
    kinds: dict[str, dict[str, None]] = {}
    for table in tables:
        for sentence in table.differs:
            word, colon, rest = sentence.partition(": ")
            known = bool(colon) and word in _KINDS
            text = rest if known else sentence
            for name, short in short_names(table):
                text = re.sub(rf"(?<=[(\s]){re.escape(name)}(?=[,)])", short.replace("\\", r"\\"), text)
            kinds.setdefault(_KINDS[word] if known else "Other", {})[printable(text)] = None
    return [(kind, list(sentences)) for kind, sentences in kinds.items()]


def comparison(table: Table, runs: Sequence[PageRun]) -> dict[str, Any]:
    """A table as ``mettle report`` prints it, cell by cell, with seeds and differences drawn beside their numbers.

    ``columns`` have a kind: text, seeds or bar. ``runs`` are those of the table, whose methods and codecs stand below
    the rows' names.
    """
    header, cells = table_cells(table)
    names = dict(short_names(table))
    base = names.get(table.base, printable(table.base))
    reach = max([*(abs(end) for row in table.rows for end in _ends(row)), 1e-9])
    scores = [score for row in table.rows for score in row.scores.values()] or [0.0]
    columns = [("text", f"minus {base}" if name == f"minus {table.base}" else name) for name in header]
    drawn = [("seeds", f"{min(scores):.2f} to {max(scores):.2f}"), ("bar", f"{signed(-reach)} to {signed(reach)}")]
    # seeds after the score, the bar after the difference or its interval
    places = [header.index(f"{table.split} {table.metric}") + 1]
    places += [place + 1 for place, name in enumerate(header) if name in ("95 % interval", f"minus {table.base}")][-1:]
    for place, column in reversed(list(zip(places, drawn, strict=False))):
        columns.insert(place, column)
    rows = []
    for line, row in zip(cells, table.rows, strict=True):
        content: list[Any] = [names[row.name], *line[1:]]
        drawings = ([_place(score, min(scores), max(scores)) for score in row.scores.values()], _bar(row, reach))
        for place, drawing in reversed(list(zip(places, drawings, strict=False))):
            content.insert(place, drawing)
        about = _about([run for run in runs if run.scored and run.scored.row == row.name])
        rows.append({"cells": content, "about": about, "base": row.name == table.base})
    below = [(word, printable(sentence)) for word, sentence in lines_below(table) if word != "differs"]
    return {"title": printable(table.title), "columns": columns, "rows": rows, "below": below}


def _about(runs: Sequence[PageRun]) -> str:
    methods = dict.fromkeys(method_name(run.method) for run in runs)
    codecs = dict.fromkeys(run.config.store.codec for run in runs)
    return ", ".join(map(printable, (*methods, *codecs)))


def _bar(row: TableRow, reach: float) -> dict[str, Any] | None:
    """Where a difference and its interval lie between -reach and reach, in per cent of the width."""
    ends = _ends(row)
    if row.difference is None:
        return None
    low, mean, high = (_place(value, -reach, reach) for value in (ends[0], row.difference.mean, ends[1]))
    return {"low": low, "mean": mean, "width": high - low, "interval": row.difference.interval is not None}


def _place(value: float, low: float, high: float) -> float:
    return 50.0 if high <= low else 100 * (value - low) / (high - low)


def _ends(row: TableRow) -> tuple[float, ...]:
    one = row.difference
    if one is None:
        return ()
    return (one.interval.low, one.interval.high) if one.interval else (one.mean, one.mean)


def curves(runs: Sequence[PageRun]) -> dict[str, Any] | None:
    """Loss and score of every run with epochs, for the script, and as a table for those who cannot see a chart."""
    shown = [run for run in runs if run.epochs]
    if not shown:
        return None
    series = []
    for run in shown:
        column = _score_column(run)
        series.append(
            {
                "name": printable(run.label),
                "loss": [row["loss"] for row in run.epochs],
                "score": [row.get(column) for row in run.epochs] if column else [],
                "best": _best_epoch(run, column),
                "parts": {
                    name: [row.get(name) for row in run.epochs] for name in run.epochs[0] if name.startswith("loss_")
                },
            }
        )
    columns = dict.fromkeys(filter(None, (_score_column(run) for run in shown)))
    label = " and ".join(_column_name(column) for column in columns)
    return {"series": series, "score": label}


def _score_column(run: PageRun) -> str | None:
    """The column of ``metrics.csv`` that selected the epoch."""
    metric = run.training.get("metric") or run.evaluation.get("metric")
    split = run.config.select_on
    names = [name for name in run.epochs[0] if name.startswith(f"{split}_")]
    if metric:
        return f"{split}_{metric}" if f"{split}_{metric}" in names else None
    return names[0] if names else None


def _column_name(column: str) -> str:
    split, _, metric = column.partition("_")
    return f"{score_name(metric)} on {split}"


def _best_epoch(run: PageRun, column: str | None) -> int:
    """The selected epoch: the latest of the highest; without scores the last."""
    scores = [row.get(column) if column else None for row in run.epochs]
    known = [score for score in scores if score is not None]
    if not known:
        return len(run.epochs)
    return len(scores) - scores[::-1].index(max(known))
