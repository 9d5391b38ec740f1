"""Comparing codecs by the heads that learn from them, paired by seed with heads that learn from float16."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.pipelines.compare.config import CLIP_MEAN, REFERENCE, CompareJob
from mettle_cache.pipelines.compare.groups import CLIP, group_columns, read_groups
from mettle_cache.pipelines.compare.heads import Subject, heads_of
from mettle_cache.pipelines.compare.intervals import Interval, widest_interval
from mettle_cache.pipelines.compare.report import CodecRow, CompareReport
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.signals import InterruptedRunError
from mettle_cache.pipelines.train.recipe import default_recipe, flatten_recipe, load_recipe
from mettle_cache.pipelines.train.sample_loader import no_samples, read_split
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import RUNS
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import RECORDS, bytes_per_clip
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.durable import make_folder, write_file
from mettle_cache.tasks.protocol import Predictions, Task

SUBJECT_FILE = "comparison.json"
# what rounding may add between a score and the mean of its samples' scores, in points
_ROUNDING = 1e-6


def compare_codecs(job: CompareJob, progress: Progress | None = None) -> CompareReport:
    """Train the recipe's head on each codec of a float16 store, with the same seeds, and compare the scores.

    Heads of one seed begin with the same weights and get the same batches and the same dropout, whatever the codec.
    Files go to ``job.out``: finished heads are kept there, and a second run of the same comparison takes them.

    Raises
    ------
    UsageError, StoreError
        As :meth:`CompareJob.check`; the split has no samples, or the task's score is no mean over samples.
    DatasetError
        The groups cannot be read, or lack a clip.
    RunError
        ``out`` holds another comparison; a head failed.
    InterruptedRunError
        SIGINT; finished heads stay.
    """
    progress = progress or Silent()
    job.check()
    prepare_process()
    with TokenStore.open(job.store) as store:
        subject = _subject(job, store)
        try:
            return _compare(job, subject, progress)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; the heads that are trained stay in {subject.folder}",
                hint="run the same command again: it goes on where this one stopped",
            ) from None


def _compare(job: CompareJob, subject: Subject, progress: Progress) -> CompareReport:
    store = subject.store
    columns = _columns(job, subject)
    sizes = {name: _clip_bytes(store, name) for name in job.compared}
    _claim(subject)
    task, seeds = bind_task(subject.recipe, store), range(job.seeds)
    reference = heads_of(subject, REFERENCE, seeds, progress)
    terms = _terms(task, reference, subject)
    rows = []
    for name in job.compared:
        heads = heads_of(subject, name, seeds, progress)
        own = _terms(task, heads, subject)
        difference = None if name == REFERENCE else widest_interval(own - terms, columns)
        changed = [task.changed_share(head, other) for head, other in zip(heads, reference, strict=True)]
        rows.append(_row(name, sizes[name], own.mean(1).tolist(), difference, changed))
    return _report(job, subject, task, columns, reference, rows)


def _subject(job: CompareJob, store: TokenStore) -> Subject:
    recipe = load_recipe(job.recipe or default_recipe(store), list(job.overrides))
    split = read_split(store, job.split)
    if not split.rows:
        raise no_samples(store, split)
    folder = job.out or RUNS / f"compare-{Path(store.path).stem}-{recipe.name}"
    return Subject(store=store, recipe=recipe, split=split, device=choose_device(job.device), folder=folder)


def _columns(job: CompareJob, subject: Subject) -> dict[str, list[str]]:
    """The groups of the split's samples; each clip its own where no file says otherwise."""
    clips = subject.store.samples[CLIP].to_pylist()
    groups = read_groups(job.groups) if job.groups else {}
    columns = group_columns(groups, [clips[row] for row in subject.split.rows], where=job.groups)
    few = [name for name, labels in columns.items() if len(set(labels)) < 2]
    if few:
        raise UsageError(f"all samples of {subject.split.name} have the same {few[0]}: no interval can be given")
    return columns


def _claim(subject: Subject) -> None:
    """Begin the folder's record, or make sure that it is of the same comparison; codecs and seeds may be added."""
    asked = {
        "mettle-cache": version("mettle-cache"),
        "store": subject.store.key_digest,
        "content": subject.store.content_digest,
        "split": subject.split.name,
        # a GPU rounds and draws dropout otherwise: its heads are no pair of those of a CPU
        **({} if subject.device.type == "cpu" else {"device": subject.device.type}),
        **flatten_recipe(subject.recipe.to_json()),
    }
    file = subject.folder / SUBJECT_FILE
    if not file.exists():
        if subject.folder.is_dir() and any(subject.folder.iterdir()):
            raise RunError(f"{subject.folder} holds something else", hint="choose another folder with --out")
        make_folder(subject.folder)
        write_file(file, (json.dumps(asked, indent=2) + "\n").encode())
        return
    try:
        there = json.loads(file.read_text())
        differing = [key for key in {**asked, **there} if asked.get(key) != there.get(key)]
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{file} cannot be read ({error})", hint="choose another folder with --out") from error
    if differing:
        listed = ", ".join(f"{key} = {there.get(key)} there, {asked.get(key)} here" for key in differing[:5])
        raise RunError(f"{subject.folder} holds another comparison ({listed})", hint="choose another folder with --out")


def _terms(task: Task, heads: Sequence[Predictions], subject: Subject) -> NDArray[np.float64]:
    """What each sample scores with each head ``[S, R]``; their means must be the heads' scores."""
    rows = subject.split.rows
    terms = np.stack([task.sample_scores(head, rows) for head in heads])
    for head, of_samples in zip(heads, terms, strict=True):
        score = task.score(head, rows)[task.metric]
        if abs(float(of_samples.mean()) - score) > _ROUNDING:
            raise UsageError(
                f"{task.metric} is {score:.4f}, and the mean over its samples {of_samples.mean():.4f}: an interval "
                "needs a score that is a mean over samples",
                hint="the task can say what each sample adds by a method sample_scores of its own",
            )
    return terms


def _row(
    name: str, size: int | None, scores: Sequence[float], difference: Interval | None, changed: Sequence[float]
) -> CodecRow:
    return CodecRow(
        codec=name,
        clip_bytes=size,
        score=statistics.fmean(scores),
        spread=statistics.stdev(scores),
        difference=difference,
        changed=statistics.fmean(changed),
    )


def _clip_bytes(store: TokenStore, name: str) -> int | None:
    """Bytes of the arrays of one clip in a codec, exactly. Raises StoreError where it cannot hold the layers."""
    if name == CLIP_MEAN:
        return None
    codec = get_codec(name)
    sizes = bytes_per_clip(cells_for(codec, store.dataset, store.layers), store.segments, codec)
    return sum(size for array, size in sizes.items() if array != RECORDS)


def _report(
    job: CompareJob,
    subject: Subject,
    task: Task,
    columns: Mapping[str, Sequence[str]],
    reference: Sequence[Predictions],
    rows: list[CodecRow],
) -> CompareReport:
    dropped = len(subject.split.dropped)
    return CompareReport(
        store=Path(subject.store.path),
        out=subject.folder,
        dataset=subject.store.dataset,
        recipe=subject.recipe.name,
        metric=task.metric,
        split=subject.split.name,
        samples=len(subject.split),
        seeds=job.seeds,
        epochs=subject.recipe.train.epochs,
        groups={name: len(set(labels)) for name, labels in columns.items()},
        floors=task.floors(subject.split.rows),
        seeds_change=statistics.fmean(task.changed_share(one, two) for one, two in pairwise(reference)),
        rows=rows,
        notes=[f"samples left out because their clips have no tokens: {dropped}"] if dropped else [],
    )
