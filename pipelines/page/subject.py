"""The runs of one data set and task as a page tells of them: all its sections, ready for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.page.costs import cost_section
from mettle_cache.pipelines.page.facts import recipes, run_facts
from mettle_cache.pipelines.page.options import PageOptions
from mettle_cache.pipelines.page.runs import PageRun, PageStore, read_store
from mettle_cache.pipelines.page.samples import open_frames, tell_samples
from mettle_cache.pipelines.page.sections import comparison, curves, score_table, sorted_differences
from mettle_cache.pipelines.page.summary import summarise
from mettle_cache.pipelines.page.words import task_words
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.tables.table import Table


@dataclass(frozen=True)
class Subject:
    """``view`` is for the template, ``data`` for the script, ``lacks`` what is missing, in words."""

    view: dict[str, Any]
    data: dict[str, Any]
    lacks: list[str]


def tell_subject(runs: Sequence[PageRun], tables: Sequence[Table], options: PageOptions, progress: Progress) -> Subject:
    """All sections of some runs on one data set.

    Raises
    ------
    UsageError, DatasetError
        Nothing is scored on the split because the store has no such split, or the root is no such data set.
    """
    stores = [read_store(run, options.store) for run in runs]
    opened = [store for store in stores if isinstance(store, PageStore)]
    _check_split(runs, opened, options.split)
    frames = open_frames(runs[0].dataset, opened, options.root) if any(run.scored for run in runs) else ""
    lacks = [f"{run.label}: {reason}" for run in runs for reason in run.lacks]
    lacks += [f"{run.label}: {store}" for run, store in zip(runs, stores, strict=True) if isinstance(store, str)]
    lacks += [f"{run.label}: not scored on {options.split}, or trained on since" for run in runs if not run.scored]
    samples = tell_samples(runs, opened, frames, options.split, progress)
    lacks += samples.lacks
    clips = samples.clips
    summary = summarise(runs, opened, tables[0] if tables else None, options.split, options.groups)
    drawn = curves(runs)
    shown_tables = [table for table in tables if len(table.rows) > 1 or table.title]
    view = {
        "summary": summary,
        "words": task_words(runs[0].task),
        "dataset": printable(runs[0].dataset),
        "facts": run_facts(runs, stores),
        "recipes": recipes(runs),
        "scores": score_table(runs),
        "differs": sorted_differences(tables),
        # a table has its notes below it
        "notes": [printable(line) for table in tables if table not in shown_tables for line in table.notes],
        "tables": [comparison(table, runs) for table in shown_tables],
        "curves": drawn,
        "classes": any(samples.classes),
        "clips": clips is not None,
        "cost": cost_section(runs, opened, options.out),
        "lacks": [printable(line) for line in lacks],
    }
    data = {
        "runs": [printable(run.label) for run in samples.runs],
        "words": {"metric": summary.metric, "sample": task_words(runs[0].task).sample},
        "curves": drawn,
        "classes": samples.classes if any(samples.classes) else None,
        "clips": None if clips is None else clips.to_json(),
    }
    return Subject(view, data, lacks)


def _check_split(runs: Sequence[PageRun], stores: Sequence[PageStore], split: str) -> None:
    known = list(dict.fromkeys(name for store in stores for name in store.facts["rows"]))
    if known and split not in known and not any(run.scored for run in runs):
        raise UsageError(f"{stores[0].path}: there is no split '{split}'", hint=f"it has {', '.join(known)}")
