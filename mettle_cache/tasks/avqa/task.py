"""Audio-visual question answering on MUSIC-AVQA: one of C answers to each question about a video.

Shapes: B or R questions, T seconds, L words. Sources: docs/protocols/avqa.md. The paper has no such experiment: the
published rows are those of its peers ("Published scores" there), on the first release of the questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.decoders.avqa import AVQADecoder
from mettle_cache.errors import DatasetError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCD, LCDOptions
from mettle_cache.methods.linear import LinearOptions, LinearProbe
from mettle_cache.methods.mti import SoftmaxOver
from mettle_cache.methods.protocol import Method, PerModality
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avqa import (
    TYPES,
    answer_accuracies,
    blind_answers,
    most_common_answers,
    predict_answers,
)
from mettle_cache.options import Options, Share, Width
from mettle_cache.tasks.avqa.grounding import load_grounding, negative_inputs
from mettle_cache.tasks.avqa.model import AvqaModel, last_layers
from mettle_cache.tasks.model import require_method
from mettle_cache.tasks.prediction_columns import score_lists
from mettle_cache.tasks.protocol import Predictions, PublishedRow, StepInputs, Task

# direct alone injects nothing into the pictures
AVQA_METHODS = ("lcd", "linear", "molt", "direct", "layermean")
LENGTH = 14
"""Words of the longest published question; shorter ones are padded to it, and the LSTM runs through the padding."""


@dataclass(frozen=True, kw_only=True)
class AvqaHeadOptions(Options):
    """The head, and what docs/protocols/avqa.md, "Open choices", leaves open.

    ``dim`` is the head's width, ``none`` for that of the pictures, which grounding files want. ``init_grounding`` is
    such a file, or ``none``. ``aggregate`` takes LCD's meta-tokens from the last layers, or their mean over all layers;
    methods that are neither LCD nor linear probing choose their layers themselves.
    ``softmax_over`` is MTI's. ``negatives`` get the same injection or stay as the backbone gives them;
    ``negative_videos`` is how many other videos a step draws them from, ``all`` for no bound.
    """

    dim: Width | Literal["none"] = "none"
    dropout: Share = 0.1
    aggregate: Literal["last_layer", "all_layers"] = "last_layer"
    softmax_over: SoftmaxOver = "meta_tokens"
    negatives: Literal["injected", "raw"] = "injected"
    negative_videos: Annotated[int, Field(ge=2, le=10_000)] | Literal["all"] = 16
    packed: bool = False
    init_grounding: str = "none"


_SWIN = "swinv2_large_window12_192.ms_in22k"


def _row(setting: str, audio: str, scores: tuple[float, float, float, float], method: str) -> PublishedRow:
    return PublishedRow(
        setting=setting,
        dataset="music-avqa",
        visual="swinv2_l",
        audio=audio,
        architectures=(_SWIN, audio),
        scores=dict(zip(("accuracy", "audio", "visual", "audio_visual"), scores, strict=True)),
        total_m=None,
        trainable_percent=None,
        source=f"{method}, a peer: Mettle publishes no number; first-release questions (json)",
        test_samples=9185,
        counting="",
        selected_on="val",
    )


class AvqaTask(Task):
    """AVQA on the questions of one store; see :class:`mettle_cache.tasks.protocol.Task`."""

    sample_schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("row", pa.int64()),
            ("clip", pa.string()),
            ("split", pa.string()),
            ("modality", pa.string()),
            ("kind", pa.string()),
            ("template", pa.string()),
            ("question", pa.string()),
            ("answer", pa.string()),
        ]
    )
    options_type: ClassVar[type] = AvqaHeadOptions
    metric: ClassVar[str] = "accuracy"
    published: ClassVar[tuple[PublishedRow, ...]] = (
        _row("music-avqa-swin-htsat", "htsat", (74.8, 77.4, 81.9, 70.7), "DG-SCT"),
        _row("music-avqa-swin-shared", "shared", (74.0, 75.7, 80.4, 70.4), "LAVISH"),
    )
    published_vocabulary: ClassVar[Mapping[str, Sequence[str]]] = {
        "words": tuple(str(word) for word in range(93)),
        "answers": tuple(str(answer) for answer in range(42)),
    }
    published_segments: ClassVar[int] = 10
    methods: ClassVar[tuple[str, ...] | None] = AVQA_METHODS

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        samples: pa.Table,
        vocabulary: Mapping[str, Sequence[str]],
        segments: int,
        method: MethodChoice,
        options: AvqaHeadOptions,
    ) -> None:
        require_method(method, AVQA_METHODS, reason="question answering injects each meta-token by itself")
        for name in ("words", "answers"):
            if not vocabulary.get(name):
                raise DatasetError(f"the store's vocabulary has no {name}, so no question can be asked or answered")
        self.layers = _chosen(layers, method, options)
        self.answers = tuple(vocabulary["answers"])
        self.words = tuple(vocabulary["words"])
        self.release = next(iter(vocabulary.get("release", ())), "unknown")
        self.samples = samples
        self.segments = segments
        self.method = method
        self.options = options
        self.questions = word_indexes(samples["question"].to_pylist(), self.words)
        index = {answer: number for number, answer in enumerate(self.answers)}
        answered: list[str] = samples["answer"].to_pylist()
        self.answer_of = np.array([index.get(answer, -1) for answer in answered], dtype=np.int64)
        self.types = list(zip(samples["modality"].to_pylist(), samples["kind"].to_pylist(), strict=True))
        _, self.video_of = np.unique(np.array(samples["clip"].to_pylist(), dtype=str), return_inverse=True)

    def build_model(self) -> nn.Module:
        if isinstance(self.method.options, LCDOptions | LinearOptions):
            method: Method = PerModality(self.layers, self._build_module)
        else:
            method = self.method.build(self.layers)
        layer = last_layers(self.layers)[0]
        decoder = AVQADecoder(
            method.audio_dim,
            layer.width,
            words=len(self.words),
            answers=len(self.answers),
            dim=None if isinstance(self.options.dim, str) else self.options.dim,
            dropout=self.options.dropout,
            packed=self.options.packed,
        )
        return AvqaModel(
            method,
            decoder,
            layer,
            softmax_over=self.options.softmax_over,
            raw_negatives=self.options.negatives == "raw",
            injects=self.method.name != "direct",
        )

    def initialise(self, model: nn.Module) -> None:
        """Take the grounding layers from ``init_grounding``."""
        if self.options.init_grounding != "none":
            load_grounding(cast(AvqaModel, model).decoder.grounding, Path(self.options.init_grounding))

    def inputs(self, rows: Sequence[int], *, split_rows: Sequence[int], rng: np.random.Generator | None) -> StepInputs:
        """The questions ``[B, L]`` and, in training, where to find pictures of other videos."""
        question = {"question": torch.from_numpy(self.questions[_indexes(rows)])}
        if rng is None:
            return StepInputs(tensors=question)
        bound = self.options.negative_videos
        at_most = None if isinstance(bound, str) else bound
        others = negative_inputs(self.video_of, rows, split_rows, segments=self.segments, at_most=at_most, rng=rng)
        return StepInputs(rows=others.rows, tensors={**question, **others.tensors})

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Answers ``[B]``; -1 for one that no train question has, which only val and test can have."""
        return torch.from_numpy(self.answer_of[_indexes(rows)])

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return cast(AvqaModel, model).decoder.loss(outputs, targets)

    def interpret(self, outputs: dict[str, Tensor]) -> Predictions:
        """``answers [B]``, by number, and ``probabilities [B, C]`` of all C answers, which sum to 1."""
        logits = outputs["answer"].float().cpu()
        return {"answers": predict_answers(logits.numpy()), "probabilities": logits.softmax(-1).numpy()}

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        """Overall and by modality, pooled over questions."""
        scores = self._accuracies(predictions["answers"], rows)
        names = {"accuracy": "accuracy", **{name: name.lower().replace("-", "_") for name in TYPES}}
        return {short: scores[name] for name, short in names.items() if name in scores}

    def details(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, object]:
        """Accuracy by type, and which release the questions are of: the two are not comparable."""
        scores = self._accuracies(predictions["answers"], rows)
        by_type = {name: score for name, score in scores.items() if " " in name}
        return {"accuracy_by_type": by_type, "questions_of": self.release}

    def floors(self, rows: Sequence[int]) -> dict[str, float]:
        """What the train split's most frequent answers score: to each template, and to everything."""
        templates, answers = self._templates_and_answers(self._train())
        (always,) = most_common_answers([""] * len(answers), answers).values()
        blind = blind_answers(
            self._templates_and_answers(rows)[0], most_common_answers(templates, answers), otherwise=always
        )
        return {
            "most frequent answer of the template": self._accuracies(self._numbers(blind), rows)["accuracy"],
            f"always {always}": self._accuracies(self._numbers([always] * len(rows)), rows)["accuracy"],
        }

    def prediction_table(self, predictions: Predictions, rows: Sequence[int]) -> pa.Table:
        """One row a question: its row in the split's file, video, type, words, answer, prediction, its ``probability``.

        ``scores`` are the probabilities of all answers; these are in the metadata.
        """
        samples = self.samples.take(pa.array(rows, pa.int64()))
        columns = {name: samples[name] for name in ("row", "clip", "modality", "kind", "question", "answer")}
        columns["prediction"] = pa.array([self.answers[number] for number in predictions["answers"]], pa.string())
        columns["probability"] = pa.array(np.asarray(predictions["probabilities"]).max(-1), pa.float32())
        columns["scores"] = score_lists(predictions["probabilities"])
        return pa.table(columns).replace_schema_metadata({"answers": json.dumps(self.answers)})

    def _build_module(self, layers: Sequence[LayerSpec]) -> nn.Module:
        """The method of one modality, as wide as its last layer where layers differ in width."""
        options = self.method.options
        if isinstance(options, LinearOptions):
            return LinearProbe(layers, options)
        options = cast(LCDOptions, options)
        if self.options.aggregate == "all_layers" and options.dim == "none":
            options = replace(options, dim=layers[-1].width)
        return LCD(layers, options)

    def _train(self) -> list[int]:
        return [row for row, split in enumerate(self.samples["split"].to_pylist()) if split == "train"]

    def _templates_and_answers(self, rows: Sequence[int]) -> tuple[list[str], list[str]]:
        chosen = self.samples.take(pa.array(rows, pa.int64()))
        return chosen["template"].to_pylist(), chosen["answer"].to_pylist()

    def _numbers(self, answers: Sequence[str]) -> np.ndarray:
        return np.array([self.answers.index(answer) for answer in answers], dtype=np.int64)

    def _accuracies(self, answers: np.ndarray, rows: Sequence[int]) -> dict[str, float]:
        return answer_accuracies(answers, self.answer_of[_indexes(rows)], [self.types[row] for row in rows])


def _chosen(layers: Sequence[LayerSpec], method: MethodChoice, options: AvqaHeadOptions) -> tuple[LayerSpec, ...]:
    """The layers that are read: the method's, and the last visual one, which the head sees."""
    if method.name not in ("lcd", "linear"):
        read = {*method.layers(layers), *last_layers(layers)[:1]}
        return tuple(layer for layer in layers if layer in read)
    return tuple(layers) if options.aggregate == "all_layers" else last_layers(layers)


def word_indexes(questions: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """Indexes ``[R, L]`` of the words, padded on the right with 0; L is 14, or more where a question is longer.

    Raises
    ------
    DatasetError
        A word that the vocabulary lacks; the question is named.
    """
    index = {word: number for number, word in enumerate(words)}
    split = [question.split(" ") for question in questions]
    indexes = np.zeros((len(questions), max([LENGTH, *map(len, split)])), dtype=np.int64)
    for row, question in enumerate(split):
        unknown = next((word for word in question if word not in index), None)
        if unknown is not None:
            raise DatasetError(f"sample {row}: the word '{unknown}' is not one of the {len(words)} of the vocabulary")
        indexes[row, : len(question)] = [index[word] for word in question]
    return indexes


def _indexes(rows: Sequence[int]) -> np.ndarray:
    return np.asarray(rows, dtype=np.int64)
