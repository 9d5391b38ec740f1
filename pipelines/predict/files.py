"""Answering many files: tables of all of them, and the files of each, in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.errors import MediaError
from mettle_cache.pipelines.predict.answer import Answer
from mettle_cache.pipelines.predict.config import PredictConfig, PredictReport
from mettle_cache.pipelines.predict.media import EVENTS_NAME, find_media
from mettle_cache.pipelines.predict.pictures import draw_answer, write_masks
from mettle_cache.pipelines.predict.predictor import Failure, Predictor
from mettle_cache.pipelines.predict.subtitles import events_csv, events_srt
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.units import count
from mettle_cache.store.writing.durable import make_folder, write_atomically, write_file

JSON_LINES, PARQUET, EVENTS = "predictions.jsonl", "predictions.parquet", f"{EVENTS_NAME}.csv"
_EVENT_TASKS = ("avel", "avvp")


def predict_files(
    config: PredictConfig, progress: Progress | None = None, predictor: Predictor | None = None
) -> PredictReport:
    """Answer every file, and write ``predictions.jsonl``, ``predictions.parquet`` and the files of each.

    A file that cannot be read is a failure of the report; the others are answered. The tables hold what was answered
    also where the work is stopped, and replace those of an earlier prediction in the same folder.

    Parameters
    ----------
    predictor
        One that is warm already, of the same run; None: it is loaded.

    Raises
    ------
    RunError, StoreMissingError, WeightsError, UsageError
        As :meth:`Predictor.load`, or the files or questions make no sense, or the results would lie among the media.
    NoRoomError, StoreError
        The results cannot be written.
    """
    progress = progress or Silent()
    config.check()
    items = find_media(config.files, config.sound)
    config.refuse_beside(items)
    if predictor is None:
        predictor = Predictor.load(
            config.run,
            store=config.store,
            visual=config.visual,
            audio=config.audio,
            device=config.device,
            progress=progress,
        )
    results = predictor.answer(
        items,
        questions=config.questions,
        one_clip=config.one_clip,
        fill_missing=config.fill_missing,
    )
    written = _Written(config, predictor, progress)
    try:
        for result in results:
            written.add(result)
    finally:
        written.write_tables()
    return written.report()


class _Written:
    """What was answered so far."""

    def __init__(self, config: PredictConfig, predictor: Predictor, progress: Progress) -> None:
        self.config, self.predictor, self.progress = config, predictor, progress
        self.rows: list[dict[str, Any]] = []
        self.events: list[tuple[str, Any]] = []
        self.files: dict[str, list[Path]] = {}
        self.failures: dict[str, str] = {}
        self.seconds = dict.fromkeys(("decoding", "backbones", "head"), 0.0)
        self.windows = 0

    def add(self, result: Answer | Failure) -> None:
        """Take note of one item, and write its files."""
        if isinstance(result, Failure):
            self._fail(result)
            return
        self.rows += result.rows()
        self.events.append((str(result.item.path), result.events))
        for window in result.windows:
            self.windows += 1
            for name in self.seconds:
                self.seconds[name] += getattr(window, name)
        self.progress.note(_describe(result))
        files: list[Path] = []
        self.files[result.item.name] = files
        try:
            for path in self._write(result):
                files.append(path)
        except MediaError as error:
            # pictures need more of a file than its answer does, which stays
            self._fail(Failure(result.item, error))

    def _fail(self, failure: Failure) -> None:
        self.failures[str(failure.item.path)] = failure.error.message
        self.progress.note(f"failed: {failure.error}")

    def write_tables(self) -> None:
        """The tables of all items; none where nothing was answered."""
        if not self.rows:
            return
        folder = self.config.folder
        make_folder(folder)
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows)
        write_file(folder / JSON_LINES, lines.encode())
        table = pa.Table.from_pylist(self.rows)
        write_atomically(folder / PARQUET, partial(pq.write_table, table), needed=table.nbytes)
        if self.predictor.task in _EVENT_TASKS:
            write_file(folder / EVENTS, events_csv(self.events).encode())

    def report(self) -> PredictReport:
        each = {name: seconds / max(self.windows, 1) for name, seconds in self.seconds.items()}
        return PredictReport(
            run=self.config.run,
            out=self.config.folder,
            task=self.predictor.task,
            answered=self.rows,
            files=self.files,
            failures=self.failures,
            notes=list(self.predictor.notes),
            timing={"windows": self.windows, **each},
        )

    def _write(self, answer: Answer) -> Iterator[Path]:
        """An item's own files."""
        folder, name = self.config.folder, answer.item.name
        make_folder(folder)
        if self.predictor.task in _EVENT_TASKS:
            texts: Mapping[str, str] = {
                ".srt": events_srt(answer.events),
                ".csv": events_csv([(str(answer.item.path), answer.events)]),
            }
            for ending, text in texts.items():
                path = folder / f"{name}{ending}"
                write_file(path, text.encode())
                yield path
        if self.predictor.task == "avs":
            yield write_masks(answer, folder / name / "masks")
        if self.config.pictures:
            yield from draw_answer(answer, folder)


def _describe(answer: Answer) -> str:
    """One line about an item: how long each part took."""
    windows = answer.windows
    decoding, backbones, head = (
        sum(getattr(window, name) for window in windows) / len(windows) for name in ("decoding", "backbones", "head")
    )
    return (
        f"{answer.item.path}: {count(len(windows), 'window')}, each {decoding:.2f} s decoding, "
        f"{backbones:.2f} s backbones, {head:.3f} s head"
    )
