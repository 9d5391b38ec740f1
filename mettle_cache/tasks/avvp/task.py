"""Audio-visual video parsing on LLP: what is heard and what is seen, second by second, learned from weak labels.

Shapes: B or R samples, T segments, C categories. Sources: docs/protocols/avvp.md; published row from Mettle's
Table 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mettle_cache.decoders.mmil import Smoothing
from mettle_cache.decoders.registry import Decoder
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avvp import Parsing, category_scores, paint_events, parse, parsing_scores
from mettle_cache.tasks.avvp.head import MotionFeatures, ParsingHeadOptions
from mettle_cache.tasks.model import build_audio_visual_model, category_names
from mettle_cache.tasks.prediction_columns import score_lists
from mettle_cache.tasks.protocol import Predictions, PublishedRow, StepInputs, Task

LABELLED = ("audio", "visual")

_PUBLISHED = PublishedRow(
    setting="llp-swin-htsat",
    dataset="llp",
    visual="swinv2_l",
    audio="htsat",
    architectures=("swinv2_large_window12_192.ms_in22k", "htsat"),
    scores={
        "segment_a": 64.3,
        "segment_v": 55.9,
        "segment_av": 50.9,
        "segment_type_av": 57.0,
        "segment_event_av": 61.2,
        "event_a": 56.1,
        "event_v": 52.2,
        "event_av": 45.1,
        "event_type_av": 51.1,
        "event_event_av": 53.1,
        "average": 54.7,
    },
    total_m=283.5,
    trainable_percent=8.3,
    source="Mettle, Table 2",
    test_samples=1200,
    counting=(
        "whole checkpoints with their classifiers; LCD on the four stage outputs of each backbone; MM-Pyramid of one "
        "level, with the 1.58 M parameters that its published code registers and never uses (93 combinations of "
        "decoder and width come within 0.05 M, so the total does not tell the decoder)"
    ),
    unused=1_581_056,
    selected_on="val",
)


class AvvpTask(Task):
    """AVVP on the samples of one store; see :class:`mettle_cache.tasks.protocol.Task`."""

    sample_schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("row", pa.int64()),
            ("clip", pa.string()),
            ("split", pa.string()),
            ("filename", pa.string()),
            ("labels", pa.list_(pa.string())),
            *((f"{modality}_labels", pa.list_(pa.string())) for modality in LABELLED),
            *((f"{modality}_{end}", pa.list_(pa.int64())) for modality in LABELLED for end in ("starts", "ends")),
        ]
    )
    options_type: ClassVar[type] = ParsingHeadOptions
    metric: ClassVar[str] = "segment_type_av"
    published: ClassVar[tuple[PublishedRow, ...]] = (_PUBLISHED,)
    published_vocabulary: ClassVar[Mapping[str, Sequence[str]]] = {"categories": tuple(str(c) for c in range(25))}
    published_segments: ClassVar[int] = 10

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        samples: pa.Table,
        vocabulary: Mapping[str, Sequence[str]],
        segments: int,
        method: MethodChoice,
        options: ParsingHeadOptions,
    ) -> None:
        self.categories = category_names(vocabulary)
        self.layers, self.pooled = method.layers(layers), method.pooled(layers)
        self.sources = tuple(vocabulary.get("dense_annotations", ()))
        self.samples = samples
        self.segments = segments
        self.method = method
        self.options = options
        self.labels = self._paint(samples["labels"].to_pylist(), segments=1)[:, :, 0]
        self.annotated = samples["audio_labels"].is_valid().to_numpy() & samples["visual_labels"].is_valid().to_numpy()
        self.annotation = Parsing(*(self._events(modality) for modality in LABELLED))
        self.motion = MotionFeatures(samples, segments) if options.reads_motion else None

    def build_model(self) -> nn.Module:
        method = self.method.build(self.layers)
        offered = {
            "options": getattr(self.options, self.options.decoder, None),
            "segments": self.segments,
            "motion": self.options.reads_motion,
            "smoothing": Smoothing(self.options.smoothing_audio, self.options.smoothing_visual),
        }
        return build_audio_visual_model(method, self.options.decoder, len(self.categories), offered, self.options)

    def inputs(self, rows: Sequence[int], *, split_rows: Sequence[int], rng: np.random.Generator | None) -> StepInputs:
        """``motion`` ``[B, T, 512]`` where the options ask for it."""
        return StepInputs() if self.motion is None else StepInputs(tensors={"motion": self.motion.read(rows)})

    def beside_media(self) -> str:
        return "R(2+1)D motion features" if self.options.reads_motion else ""

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Weak labels ``[B, C]``, 0 or 1."""
        return torch.from_numpy(self.labels[_index(rows)].astype(np.float32))

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return cast(Decoder, model.decoder).loss(outputs, targets)

    def interpret(self, outputs: dict[str, Tensor]) -> Predictions:
        """``audio`` and ``visual``, booleans ``[B, C, T]``, and the probabilities that they follow from.

        ``audio_probabilities`` and ``visual_probabilities`` are ``[B, C, T]``, ``video_probabilities`` ``[B, C]``; each
        is of one category by itself. With ``video_mask`` a category must have one half in the video too.
        """
        video, audio, visual = (outputs[name].float().cpu().numpy() for name in ("video", *LABELLED))
        parsing = parse(video, audio, visual, mask=self.options.video_mask)
        return {
            "audio": parsing.audio,
            "visual": parsing.visual,
            "audio_probabilities": audio.transpose(0, 2, 1),
            "visual_probabilities": visual.transpose(0, 2, 1),
            "video_probabilities": video,
        }

    def predict(self, outputs: dict[str, Tensor], rows: Sequence[int]) -> Predictions:
        """:meth:`interpret`. Raises UsageError for samples that cannot be scored."""
        self._annotation(rows)
        return self.interpret(outputs)

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        return parsing_scores(_parsing(predictions), self._annotation(rows))

    def sample_terms(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """All of the scores: each is a mean over videos, or of such means."""
        alone = [
            self.score({name: array[place : place + 1] for name, array in predictions.items()}, [row])
            for place, row in enumerate(rows)
        ]
        return {name: np.array([scores[name] for scores in alone]) for name in alone[0]}

    def changed_share(self, predictions: Predictions, others: Predictions) -> float:
        """Of segments of each modality, those in which any category differs: most categories are absent in both."""
        return float(np.mean([(predictions[name] != others[name]).any(axis=1) for name in LABELLED]))

    def details(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, object]:
        """F by category over all segments, and the dense files that the scores are against."""
        by_category = category_scores(_parsing(predictions), self._annotation(rows), vocabulary=self.categories)
        return {"segment_f_by_category": by_category, "dense_annotations": list(self.sources)}

    def floors(self, rows: Sequence[int]) -> dict[str, float]:
        """What predicting nothing scores: the share of videos that have no annotation."""
        truth = self._annotation(rows)
        nothing = Parsing(np.zeros_like(truth.audio), np.zeros_like(truth.visual))
        return {"nothing predicted": parsing_scores(nothing, truth)[self.metric]}

    def prediction_table(self, predictions: Predictions, rows: Sequence[int]) -> pa.Table:
        """One row a video, modality and segment: categories by number and name, annotated and predicted, ``scores``.

        ``scores`` are the probabilities of all categories, ``video_scores`` those of the whole video; the names are in
        the metadata.
        """
        truth, count = self._annotation(rows), len(rows) * len(LABELLED) * self.segments
        samples = self.samples.take(pa.array(rows, pa.int64()))
        sample, modality, segment = np.unravel_index(np.arange(count), (len(rows), len(LABELLED), self.segments))
        targets, predicted = _category_lists(truth), _category_lists(_parsing(predictions))
        scores = np.stack([predictions[f"{name}_probabilities"] for name in LABELLED], axis=1).transpose(0, 1, 3, 2)
        table = pa.table(
            {
                "row": samples["row"].take(pa.array(sample)),
                "clip": samples["clip"].take(pa.array(sample)),
                "filename": samples["filename"].take(pa.array(sample)),
                "modality": pa.array(LABELLED).take(pa.array(modality)),
                "segment": pa.array(segment.astype(np.int32)),
                "target": targets,
                "prediction": predicted,
                "target_names": self._named(targets),
                "prediction_names": self._named(predicted),
                "scores": score_lists(scores),
                "video_scores": score_lists(np.asarray(predictions["video_probabilities"])[sample]),
            }
        )
        return table.replace_schema_metadata({"categories": json.dumps(self.categories)})

    def _paint(self, labels: Sequence[Sequence[str]], *, segments: int) -> np.ndarray:
        """Weak labels as events that fill all segments, ``[R, C, T]``."""
        starts, ends = ([[edge] * len(names) for names in labels] for edge in (0, segments))
        return paint_events(labels, starts, ends, vocabulary=self.categories, segments=segments)

    def _events(self, modality: str) -> np.ndarray:
        labels, starts, ends = (
            [values or [] for values in self.samples[f"{modality}_{part}"].to_pylist()]
            for part in ("labels", "starts", "ends")
        )
        return paint_events(labels, starts, ends, vocabulary=self.categories, segments=self.segments)

    def _named(self, categories: pa.ListArray) -> pa.ListArray:
        """Lists of category numbers as lists of their names."""
        return pa.ListArray.from_arrays(categories.offsets, pa.array(self.categories).take(categories.values))

    def _annotation(self, rows: Sequence[int]) -> Parsing:
        chosen = _index(rows)
        if not self.annotated[chosen].all():
            first = rows[int(np.argmin(self.annotated[chosen]))]
            name, split = (self.samples[column][first].as_py() for column in ("filename", "split"))
            raise UsageError(
                f"sample {first} ({name}, {split}) has weak labels only, so its segments cannot be scored",
                hint="val and test have dense annotations",
            )
        return Parsing(self.annotation.audio[chosen], self.annotation.visual[chosen])


def _index(rows: Sequence[int]) -> np.ndarray:
    return np.asarray(rows, dtype=np.int64)


def _parsing(predictions: Predictions) -> Parsing:
    return Parsing(predictions["audio"], predictions["visual"])


def _category_lists(parsing: Parsing) -> pa.ListArray:
    """The category numbers of each video, modality and segment."""
    both = np.stack((parsing.audio, parsing.visual), axis=1)
    active = both.transpose(0, 1, 3, 2).reshape(-1, both.shape[2])
    offsets = np.concatenate(([0], np.cumsum(active.sum(axis=1)))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.nonzero(active)[1].astype(np.int32))
