"""What a head answered about one item: its windows put together, second by second, as rows and as events.

Shapes: T seconds of a window, S of an item, C categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.pictures import choose_frames
from mettle_cache.decoders.fpn import SIDE
from mettle_cache.pipelines.predict.looking import SECONDS_HEARD, SECONDS_SEEN
from mettle_cache.pipelines.predict.media import MediaItem
from mettle_cache.pipelines.predict.windows import ClipForm, MediaPlan
from mettle_cache.tasks.avs.task import mask_confidence

if TYPE_CHECKING:
    from mettle_cache.pipelines.predict.head import TrainedHead
    from mettle_cache.pipelines.predict.questions import Asked

BACKGROUND = "background"
MODALITIES = ("audio", "visual")


@dataclass(frozen=True, order=True)
class Event:
    """Whole seconds ``[start, end)`` of a label; ``score`` is the mean of its probability over them.

    ``modality`` is ``audio`` or ``visual`` where the two are told apart, else empty.
    """

    start: int
    end: int
    label: str
    score: float
    modality: str = ""


@dataclass(frozen=True)
class WindowAnswer:
    """The head's predictions for one window, from ``start``: one for each question, or just one.

    Seconds from ``fresh`` on (counted from ``start``) are this window's to answer. Times are in seconds.
    """

    start: int
    fresh: int
    predictions: tuple[Mapping[str, NDArray[Any]], ...]
    decoding: float
    backbones: float
    head: float


@dataclass(frozen=True)
class Answer:
    """All that a head answers about an item."""

    plan: MediaPlan
    head: TrainedHead
    asked: Asked
    form: ClipForm
    windows: tuple[WindowAnswer, ...]

    @property
    def item(self) -> MediaItem:
        return self.plan.item

    def track(self, name: str, axis: int = 0) -> NDArray[Any]:
        """A prediction of every second, ``[S, ...]``, with time on ``axis`` of the window's arrays.

        A second belongs to the first window that covers it.
        """
        parts = [np.moveaxis(window.predictions[0][name], axis, 0)[window.fresh :] for window in self.windows]
        return np.concatenate(parts)[: self.plan.total]

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Events by their start; none where the task finds no events."""
        match self.head.recipe.task:
            case "avel":
                return tuple(sorted(self._localised()))
            case "avvp":
                return tuple(sorted(event for modality in MODALITIES for event in self._parsed(modality)))
        return ()

    @property
    def seconds(self) -> list[int]:
        """Which seconds of the item the T segments of its one clip are, where they are spread over it."""
        if not self.form.rule.longer:
            return list(range(self.form.seconds))
        return choose_frames(max(self.form.seconds, round(self.plan.seconds)), self.form.seconds)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """What sounds in the picture of each second, ``[S, 224, 224]``; only of segmentation."""
        return np.stack([self.mask(second) for second in range(self.plan.total)])

    def mask(self, second: int) -> NDArray[np.bool_]:
        """What sounds in the picture of one second, ``[224, 224]``."""
        return np.unpackbits(self._packed[second]).reshape(SIDE, SIDE).astype(np.bool_)

    @cached_property
    def _packed(self) -> NDArray[np.uint8]:
        """Masks ``[S, 6272]``."""
        return self.track("masks")

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.head.origin.vocabulary.get("categories", ()))

    def lanes(self) -> list[tuple[str, NDArray[np.bool_], NDArray[Any]]]:
        """Every category (of a modality) that has an event, with its seconds ``[S]`` and probabilities ``[S]``.

        In the order in which they first happen.
        """
        first: dict[tuple[str, str], int] = {}
        for event in self.events:
            first.setdefault((event.modality, event.label), event.start)
        lanes = []
        for modality, label in first:
            number = self.categories.index(label)
            if modality:
                found, scores = self.track(modality, axis=1)[:, number], self._probabilities(modality)[:, number]
            else:
                found, scores = self.track("labels") == number, self.track("probabilities")[:, number]
            lanes.append((f"{modality}: {label}" if modality else label, found, scores))
        return lanes

    def rows(self) -> list[dict[str, Any]]:
        """The item as rows of the tables, plain values, the same for every run of the command: one a question."""
        common = {
            "file": str(self.item.path),
            "name": self.item.name,
            "task": self.head.recipe.task,
            "seconds": round(self.plan.seconds, 3),
            "windows": [window.start for window in self.windows],
            "filled": self.plan.filled,
        }
        if self.asked.questions:
            return [{**common, **self._answered(number)} for number in range(len(self.asked.questions))]
        return [{**common, **self._findings()}]

    def _findings(self) -> dict[str, Any]:
        events = [asdict(event) for event in self.events]
        match self.head.recipe.task:
            case "avel":
                names = [*self.categories, BACKGROUND]
                labels = [names[label] for label in self.track("labels")]
                scores = _rounded(self.track("probabilities"))
                return {"events": events, "labels": labels, "categories": names, "probabilities": scores}
            case "avvp":
                tracks = {f"{name}_probabilities": self._probabilities(name) for name in MODALITIES}
                whole = [window.predictions[0]["video_probabilities"] for window in self.windows]
                return {
                    "events": events,
                    "categories": list(self.categories),
                    **{name: _rounded(track) for name, track in tracks.items()},
                    "video_probabilities": _rounded(np.stack(whole)),
                }
            case "avs":
                share = np.bitwise_count(self._packed).sum(-1, dtype=np.int64) / SIDE**2
                confidence = self.track("confidence").tolist()
                return {"foreground": _rounded(share), "confidence": [_number(value) for value in confidence]}
        return {}

    def _answered(self, number: int) -> dict[str, Any]:
        """One question's answers, the likeliest first."""
        predictions = self.windows[0].predictions[number]
        names, scores = self.head.origin.vocabulary["answers"], predictions["probabilities"]
        order = np.argsort(-scores, kind="stable").tolist()
        return {
            "question": self.asked.questions[number],
            "answer": names[int(predictions["answers"])],
            "probability": _number(float(scores[int(predictions["answers"])])),
            "looked": [
                {"second": second, "seen": _number(float(seen)), "heard": _number(float(heard))}
                for second, seen, heard in zip(
                    self.seconds, predictions[SECONDS_SEEN], predictions[SECONDS_HEARD], strict=True
                )
            ],
            "answers": [{"answer": names[place], "probability": _number(float(scores[place]))} for place in order],
        }

    def _localised(self) -> Iterator[Event]:
        labels, scores = self.track("labels"), self.track("probabilities")
        for number, category in enumerate(self.categories):
            yield from find_events(labels == number, scores[:, number], category)

    def _parsed(self, modality: str) -> Iterator[Event]:
        found, scores = self.track(modality, axis=1), self._probabilities(modality)
        for number, category in enumerate(self.categories):
            yield from find_events(found[:, number], scores[:, number], category, modality)

    def _probabilities(self, modality: str) -> NDArray[Any]:
        """``[S, C]`` of one modality."""
        return self.track(f"{modality}_probabilities", axis=1)


def compact(predictions: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Predictions of the one sample without its axis; masks packed, and their maps as one number a frame.

    An hour of maps would take a gigabyte.
    """
    arrays = {name: np.asarray(array)[0] for name, array in predictions.items()}
    if "masks" not in arrays:
        return arrays
    masks = arrays["masks"]
    return {
        "masks": np.packbits(masks.reshape(len(masks), -1), axis=-1),
        "confidence": mask_confidence(masks, arrays["probabilities"]),
    }


def _number(value: float) -> float | None:
    """JSON has no number that is none: an empty mask has no confidence."""
    return None if np.isnan(value) else round(value, 7)


def find_events(active: NDArray[np.bool_], scores: NDArray[Any], label: str, modality: str = "") -> Iterator[Event]:
    """The runs of ``active`` seconds ``[S]``, with the mean of ``scores [S]`` over each."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], np.asarray(active, bool), [False])).astype(np.int8)))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield Event(start, end, label, round(float(scores[start:end].mean()), 6), modality)


def _rounded(values: NDArray[Any] | Sequence[Any]) -> list[Any]:
    """Plain numbers with as many digits as single precision has."""
    listed: list[Any] = np.round(np.asarray(values, np.float64), 7).tolist()
    return listed
