"""The runs of one data set and task as a page tells of them: all its sections, ready for the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.datasets import default_root, open_dataset
from mettle_cache.errors import MettleError
from mettle_cache.pipelines.compare.groups import Groups
from mettle_cache.pipelines.page.classes import class_results
from mettle_cache.pipelines.page.clips.answers import answer_clips
from mettle_cache.pipelines.page.clips.clip_list import ClipList, same_samples, schema_names
from mettle_cache.pipelines.page.clips.lanes import lane_clips
from mettle_cache.pipelines.page.clips.masks import MaskSample, mask_clips, mask_samples
from mettle_cache.pipelines.page.clips.rows import row_clips
from mettle_cache.pipelines.page.clips.segments import segment_clips
from mettle_cache.pipelines.page.costs import cost_section
from mettle_cache.pipelines.page.facts import recipes, run_facts
from mettle_cache.pipelines.page.pictures import Drawn, Frames, Mask, add_masks, add_strips, mask_of_png
from mettle_cache.pipelines.page.runs import PageRun, PageStore, read_store
from mettle_cache.pipelines.page.sections import comparison, curves, score_table, sorted_differences
from mettle_cache.pipelines.page.summary import summarise
from mettle_cache.pipelines.page.words import count, task_words
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.text import printable
from mettle_cache.pipelines.tables.table import Table

MOST_RUNS = 6
MOST_ITEMS = 40_000
"""Runs whose single predictions a page holds, and how many of these altogether: it has to open at once."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """``split`` and ``groups`` as in a table, where stores and media lie, and ``out``, where the page will."""

    split: str = "test"
    groups: Groups | None = None
    store: Path | None = None
    root: Path | None = None
    out: Path = Path()


@dataclass(frozen=True)
class Subject:
    """``view`` is for the template, ``data`` for the script, ``lacks`` what is missing, in words."""

    view: dict[str, Any]
    data: dict[str, Any]
    lacks: list[str]


def tell_subject(runs: Sequence[PageRun], tables: Sequence[Table], options: PageOptions, progress: Progress) -> Subject:
    """All sections of some runs on one data set."""
    stores = [read_store(run, options.store) for run in runs]
    opened = [store for store in stores if isinstance(store, PageStore)]
    lacks = [f"{run.label}: {reason}" for run in runs for reason in run.lacks]
    lacks += [f"{run.label}: {store}" for run, store in zip(runs, stores, strict=True) if isinstance(store, str)]
    lacks += [f"{run.label}: not scored on {options.split}, or trained on since" for run in runs if not run.scored]
    shown = _with_predictions(runs, lacks)
    clips, classes = None, []
    if shown:
        samples = mask_samples(opened[0].samples if opened else None, options.split)
        clips = _clip_list(shown, samples)
        classes = [class_results(run.predictions, clips.kind, samples) for run in shown]
        lacks += _add_pictures(clips, shown, samples, opened, options, progress)
        if not clips.confident and clips.kind != "rows":
            lacks.append("no probabilities are kept, so mistakes are not sorted by confidence: evaluate again")
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
        "classes": any(classes),
        "clips": None if clips is None else {"count": len(clips.items), "kind": clips.kind},
        "cost": cost_section(runs, opened, options.out),
        "lacks": [printable(line) for line in lacks],
    }
    data = {
        "runs": [printable(run.label) for run in shown],
        "words": {"metric": summary.metric, "sample": task_words(runs[0].task).sample},
        "curves": drawn,
        "classes": classes if any(classes) else None,
        "clips": None if clips is None else clips.to_json(),
    }
    return Subject(view, data, lacks)


def _with_predictions(runs: Sequence[PageRun], lacks: list[str]) -> list[PageRun]:
    """Runs with predictions of the same samples as the first of them has, as many as a page has room for."""
    shown: list[PageRun] = []
    for run in runs:
        if run.predictions is None or not len(run.predictions):
            continue
        if shown and not same_samples(shown[0].predictions, run.predictions):
            lacks.append(f"{run.label}: scored on other samples than {shown[0].label}, so its predictions are left out")
        elif len(shown) == MOST_RUNS or (len(run.predictions) * (len(shown) + 1) > MOST_ITEMS and shown):
            lacks.append(
                f"{run.label}: there is room for the predictions of {count(len(shown), 'run')}, the first ones"
            )
        else:
            shown.append(run)
    return shown


def _clip_list(runs: Sequence[PageRun], samples: dict[int, MaskSample]) -> ClipList:
    """Single samples, drawn by what the prediction tables hold."""
    tables: list[pa.Table] = [run.predictions for run in runs]
    terms = [_own_scores(run) for run in runs]
    columns = set(tables[0].column_names)
    if {"segment", "target", "prediction"} <= columns and schema_names(tables[0], "categories"):
        lists = pa.types.is_list(tables[0]["prediction"].type)
        return lane_clips(tables, terms) if lists else segment_clips(tables, terms)
    if {"question", "answer", "prediction", "modality", "kind"} <= columns:
        return answer_clips(tables, terms)
    if {"frame", "iou", "row", "clip"} <= columns:
        return mask_clips(tables, terms, samples)
    return row_clips(tables, terms)


def _own_scores(run: PageRun) -> NDArray[np.float64] | None:
    """What each sample scored in the task's metric, ``[R]``."""
    if run.samples is None:
        return None
    return run.samples.terms.get(str(run.evaluation["metric"]))


def _add_pictures(
    clips: ClipList,
    runs: Sequence[PageRun],
    samples: dict[int, MaskSample],
    stores: Sequence[PageStore],
    options: PageOptions,
    progress: Progress,
) -> list[str]:
    """Put frames and masks into the list; what it lacks, in words."""
    frames = open_frames(runs[0].dataset, stores, options.root)
    lacks = [frames] if isinstance(frames, str) else []
    opened = None if isinstance(frames, str) else frames
    if clips.kind == "masks":
        predicted = [_mask_reader(run, options.split) for run in runs]
        drawn = add_masks(clips, samples, predicted, opened, progress)
        if not samples:
            lacks.append("without the store the true masks are not known, so no masks are drawn")
    else:
        drawn = add_strips(clips, opened, progress) if opened else Drawn(0, 0)
    if drawn.left_out:
        lacks.append(f"{count(drawn.left_out, 'sample')} have no pictures, to keep the page small: the worst ones have")
    if opened and opened.failed:
        first, why = next(iter(opened.failed.items()))
        lacks.append(f"{count(len(opened.failed), 'clip')} without frames, such as {first}: {why}")
    return lacks


def _mask_reader(run: PageRun, split: str) -> Callable[[str], Mask | None]:
    def read(clip: str) -> Mask | None:
        # an id may hold a slash, and then it is still one file
        return mask_of_png(run.read_artefact(split, f"masks/{clip.replace('/', '_')}.png"))

    return read


def open_frames(dataset: str, stores: Sequence[PageStore], root: Path | None) -> Frames | str:
    """The data set's pictures, or why there are none.

    Raises
    ------
    UsageError, DatasetError
        The root that the user has named is no such data set.
    """
    options = stores[0].facts["key"]["extraction"].get("options", {}) if stores else {}
    try:
        return Frames(open_dataset(dataset, root or default_root(dataset), options), {})
    except MettleError as error:
        if root is not None:
            raise
        return f"no frames: {error.message}; --root names the data set's folder"
