"""One warm process that answers many files: a head, its backbones, and the order in which windows go through them.

Windows are decoded one after the other, pass through the backbones several at once, and come to the head in their
order; a few of them are under way at a time, whatever the length of a video.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter

from mettle_cache.datasets.boundary import clip_errors
from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import MediaError, UsageError
from mettle_cache.paths import local_path
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.in_order import in_order
from mettle_cache.pipelines.predict.answer import Answer, WindowAnswer, compact
from mettle_cache.pipelines.predict.backbones import build_backbones
from mettle_cache.pipelines.predict.encoder import Encoder, ReadWindow, Tokens, build_encoder
from mettle_cache.pipelines.predict.head import TrainedHead, load_head
from mettle_cache.pipelines.predict.looking import looking
from mettle_cache.pipelines.predict.media import MediaItem, find_media
from mettle_cache.pipelines.predict.questions import Asked, ask
from mettle_cache.pipelines.predict.windows import MediaPlan, open_windows, plan_windows
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.report.units import count


@dataclass(frozen=True)
class Failure:
    """An item that could not be answered, and why."""

    item: MediaItem
    error: MediaError


@dataclass(frozen=True)
class _Step:
    """What goes through the backbones: one window of an item, or what keeps the rest of the item from being read."""

    plan: MediaPlan
    window: ReadWindow | None
    last: bool = False
    error: MediaError | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Answers of a trained head about new media.

    For example::

        predictor = Predictor.load("runs/ave-swinv2_l-htsat-ave-swin-htsat-0")
        answer = predictor("holiday.mp4")
        answer.events  # [Event(start=2, end=7, label="Dog", score=0.93, modality="")]
        answer.rows()  # what predictions.jsonl has of it

    ``notes`` say in what these tokens are not those of the head's store.
    """

    head: TrainedHead
    encoder: Encoder
    notes: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Silent)

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        store: str | os.PathLike[str] | None = None,
        visual: str | None = None,
        audio: str | None = None,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> Predictor:
        """The best epoch of a run's folder, or a head that ``mettle export`` wrote, with the backbones of its tokens.

        Parameters
        ----------
        store
            The run's store, which only a run of an earlier version needs, where it has moved.
        visual, audio
            ``NAME=FILE``: the backbones' weights; None: they are found by their digest where they were read before, in
            ``weights/`` or in the hub's cache.
        device
            None: a GPU where there is one.

        Raises
        ------
        RunError, StoreMissingError
            There is no such run or head, it is damaged, or it needs its store.
        WeightsError
            The weights are not on this machine, or others were named.
        UsageError
            The head reads what media do not hold, or something that it needs is not known here.
        """
        progress, target = progress or Silent(), choose_device(device)
        prepare_process()
        head = load_head(local_path(run), store=None if store is None else local_path(store), device=target)
        modalities = list(dict.fromkeys(layer.modality for layer in head.task.layers))
        named = {"visual": visual, "audio": audio}
        built = build_backbones(head.origin, modalities, target, named=named, note=progress.note)
        encoder = build_encoder(head, built.backbones, target)
        return cls(head, encoder, (*built.notes, *encoder.notes), progress)

    @property
    def task(self) -> str:
        """The head's task: ``avel``, ``avvp``, ``avs`` or ``avqa``."""
        return self.head.recipe.task

    def __call__(
        self,
        path: str | os.PathLike[str],
        *,
        question: str | None = None,
        sound: str | os.PathLike[str] | None = None,
        one_clip: bool = False,
        fill_missing: bool = False,
    ) -> Answer:
        """What the head answers about one video, or about a folder of pictures with their sound.

        Parameters
        ----------
        question
            What question answering is asked.
        sound
            A recording in the place of the video's own, or of that which lies beside the pictures.
        one_clip
            Read the file as extraction reads a clip, whatever its length.
        fill_missing
            Give the head silence or black pictures where a file has none.

        Raises
        ------
        MediaError
            The media cannot be read.
        UsageError
            There is no such file, several are meant, or a question lacks or has words that the head does not know.
        """
        items = find_media([path], None if sound is None else local_path(sound))
        if len(items) > 1:
            raise UsageError(f"{path} holds {len(items)} videos", hint="name one, or use predict_files")
        questions = [] if question is None else [question]
        for result in self.answer(items, questions=questions, one_clip=one_clip, fill_missing=fill_missing):
            if isinstance(result, Failure):
                raise result.error
            return result
        raise AssertionError("an item has neither an answer nor a failure")

    def answer(
        self,
        items: Sequence[MediaItem],
        *,
        questions: Sequence[str] = (),
        one_clip: bool = False,
        fill_missing: bool = False,
    ) -> Iterator[Answer | Failure]:
        """Answers in the order of the items; one that cannot be read is a failure, and the others are answered.

        Raises
        ------
        UsageError
            The questions do not fit the head.
        MachineError
            The machine or its device is at an end.
        """
        asked = ask(self.head, questions)
        plans: list[MediaPlan | Failure] = []
        for item in items:
            try:
                plans.append(self._plan(item, one_clip, fill_missing))
            except MediaError as error:
                plans.append(Failure(item, error))
        windows = sum(len(plan.starts) for plan in plans if isinstance(plan, MediaPlan))
        self.progress.start(windows, "windows", f"answer about {count(len(items), 'file')}")
        try:
            with reproducible_passes(self.encoder.extractor.device):
                yield from self._answers(plans, asked)
        finally:
            self.progress.finish()

    def _plan(self, item: MediaItem, one_clip: bool, fill: bool) -> MediaPlan:
        with clip_errors(item.path, item.path.parent):
            return plan_windows(item, self.encoder.form, one_clip=one_clip, fill=fill)

    def _answers(self, plans: Sequence[MediaPlan | Failure], asked: Asked) -> Iterator[Answer | Failure]:
        readable = [plan for plan in plans if isinstance(plan, MediaPlan)]
        threads = self.encoder.extractor.passes_at_once
        with closing(in_order(self._encode, self._steps(readable), threads)) as steps:
            for plan in plans:
                yield plan if isinstance(plan, Failure) else self._answer(plan, asked, steps)

    def _answer(self, plan: MediaPlan, asked: Asked, steps: Iterator[_Encoded]) -> Answer | Failure:
        """Take an item's windows out of ``steps``."""
        windows: list[WindowAnswer] = []
        failure: MediaError | None = None
        for encoded in steps:
            self.progress.advance(1)
            failure = failure or encoded.error
            if failure is None and encoded.window is not None:
                windows.append(self._judge(encoded, asked))
            if encoded.last:
                break
        return (
            Answer(plan, self.head, asked, self.encoder.form, tuple(windows))
            if failure is None
            else Failure(plan.item, failure)
        )

    def _judge(self, encoded: _Encoded, asked: Asked) -> WindowAnswer:
        """The head's answers about one window, one for each question where there are questions."""
        assert encoded.window is not None
        started = perf_counter()
        device = self.encoder.extractor.device
        tokens = {name: layer.to(device) for name, layer in encoded.tokens.items()}
        predictions = []
        for given in asked.inputs:
            with looking(self.head.model) as looked:
                outputs = self.head.forward(tokens, given)
            predictions.append(compact({**asked.task.interpret(outputs), **looked}))
        window = encoded.window
        return WindowAnswer(
            start=window.start,
            fresh=window.fresh,
            predictions=tuple(predictions),
            decoding=window.decoding,
            backbones=encoded.seconds,
            head=perf_counter() - started,
        )

    def _steps(self, plans: Sequence[MediaPlan]) -> Iterator[_Step]:
        """Every window of every item; of an item that cannot be read to its end, what was read and why it ended."""
        for plan in plans:
            path, read = plan.item.path, 0
            try:
                with clip_errors(path, path.parent):
                    for window in open_windows(plan, self.encoder.form):
                        read += 1
                        yield _Step(plan, self.encoder.read(window, path), last=read == len(plan.starts))
            except MediaError as error:
                yield _Step(plan, None, last=True, error=error)

    def _encode(self, step: _Step) -> _Encoded:
        if step.window is None:
            return _Encoded(step.last, None, {}, 0.0, step.error)
        try:
            tokens, seconds = self.encoder.encode(step.window)
        except MediaError as error:
            return _Encoded(step.last, step.window, {}, 0.0, error)
        return _Encoded(step.last, step.window, tokens, seconds, None)


@dataclass(frozen=True)
class _Encoded:
    last: bool
    window: ReadWindow | None
    tokens: Tokens
    seconds: float
    error: MediaError | None
