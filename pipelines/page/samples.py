"""Single samples of a subject's runs, with their pictures, and how the runs do by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.datasets import default_root, open_dataset
from mettle_cache.errors import MettleError
from mettle_cache.pipelines.page.classes import class_results
from mettle_cache.pipelines.page.clips.answers import answer_clips
from mettle_cache.pipelines.page.clips.clip_list import ClipList, same_samples, schema_names
from mettle_cache.pipelines.page.clips.lanes import lane_clips
from mettle_cache.pipelines.page.clips.masks import MaskSample, mask_clips, mask_samples
from mettle_cache.pipelines.page.clips.rows import row_clips
from mettle_cache.pipelines.page.clips.segments import segment_clips
from mettle_cache.pipelines.page.pictures import Drawn, Frames, Mask, add_masks, add_strips, mask_of_png
from mettle_cache.pipelines.page.runs import PageRun, PageStore
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import count

MOST_RUNS = 6
MOST_ITEMS = 150_000
"""Runs whose single predictions a page holds, and how many rows of them altogether: it has to open at once."""


@dataclass(kw_only=True)
class ToldSamples:
    """``runs`` are those whose predictions are shown, ``classes`` theirs; ``clips`` is None where there are none."""

    runs: list[PageRun]
    clips: ClipList | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


def tell_samples(
    runs: Sequence[PageRun], stores: Sequence[PageStore], frames: Frames | str, split: str, progress: Progress
) -> ToldSamples:
    """What is shown of single samples; ``frames`` may say in words why there are none."""
    lacks: list[str] = []
    told = ToldSamples(runs=_with_predictions(runs, lacks), lacks=lacks)
    if not told.runs:
        return told
    # the data set has the same samples as a store of it
    at_hand = stores[0].samples if stores else frames.dataset.samples if isinstance(frames, Frames) else None
    samples = mask_samples(at_hand, split)
    try:
        told.clips = _clip_list(told.runs, samples)
        told.classes = [class_results(run.predictions, told.clips.kind, samples) for run in told.runs]
    except (LookupError, ValueError, TypeError) as error:
        # a task of another package may have columns of the same names that hold something else
        lacks.append(f"predictions are shown as they are kept: they are of no form that this page knows ({error})")
        told.clips = row_clips([run.predictions for run in told.runs], [_own_scores(run) for run in told.runs])
    lacks += _add_pictures(told.clips, told.runs, samples, frames, split, progress)
    if not told.clips.confident and told.clips.kind != "rows":
        lacks.append("no probabilities are kept, so mistakes are not sorted by confidence: evaluate again")
    return told


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
    frames: Frames | str,
    split: str,
    progress: Progress,
) -> list[str]:
    """Put frames and masks into the list; what it lacks, in words."""
    lacks = [frames] if isinstance(frames, str) else []
    opened = None if isinstance(frames, str) else frames
    if clips.kind == "masks":
        predicted = [_mask_reader(run, split) for run in runs]
        drawn = add_masks(clips, samples, predicted, opened, progress)
        if not samples:
            lacks.append("without the store or the data set the true masks are not known, so no masks are drawn")
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
