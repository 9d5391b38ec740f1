"""Audio-visual event localisation on AVE: every segment is one of C categories or background.

Shapes: B or R samples, T segments. Sources: docs/protocols/avel.md, "Losses and labels" and "Segment accuracy";
published rows from Mettle's Tables 1 and 15.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from mettle_cache.decoders.registry import Decoder, decoder_problems
from mettle_cache.errors import DatasetError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avel import (
    category_accuracy,
    predict_event_and_class,
    predict_segments,
    segment_accuracy,
    segment_labels,
)
from mettle_cache.options import Share, Weight
from mettle_cache.tasks.input_layers import InputLayerOptions
from mettle_cache.tasks.model import build_audio_visual_model, category_names
from mettle_cache.tasks.prediction_columns import score_lists
from mettle_cache.tasks.protocol import Predictions, PublishedRow, Task


@dataclass(frozen=True, kw_only=True)
class AvelHeadOptions(InputLayerOptions):
    """The ``[head]`` table.

    ``decoder`` is one that is registered for this task. It gives logits: either ``event [B, T]`` and ``category
    [B, C]``, or ``segments [B, T, C + 1]`` with the background last. ``avps_weight`` is lambda of PSP's pair term and
    counts for ``psp29`` only. Further keys are those of its input layers.
    """

    decoder: str = "psp_cmbs"
    dropout: Share = 0.1
    avps_weight: Weight = 100.0

    def problems(self) -> Sequence[str]:
        return decoder_problems(self.decoder, "avel")


_ARCHITECTURES = {
    "swinv2_l": "swinv2_large_window12_192.ms_in22k",
    "vit_l16": "vit_large_patch16_224.augreg_in21k",
    "resnext101": "resnext101_32x8d.tv_in1k",
}


def _row(setting: str, visual: str, audio: str, accuracy: float, total: float, share: float | None) -> PublishedRow:
    return PublishedRow(
        setting=setting,
        dataset="ave",
        visual=visual,
        audio=audio,
        architectures=(_ARCHITECTURES.get(visual, visual), _ARCHITECTURES.get(audio, audio)),
        scores={"accuracy": accuracy},
        total_m=total,
        trainable_percent=share,
        source="Mettle, Table 1" if share is not None else "Mettle, Table 15",
        test_samples=402,
        counting="whole checkpoints with their classifiers; LCD on every block, one PSP head",
    )


class AvelTask(Task):
    """AVEL on the samples of one store; see :class:`mettle_cache.tasks.protocol.Task`."""

    sample_schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("row", pa.int64()),
            ("clip", pa.string()),
            ("split", pa.string()),
            ("category", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
        ]
    )
    options_type: ClassVar[type] = AvelHeadOptions
    metric: ClassVar[str] = "accuracy"
    published: ClassVar[tuple[PublishedRow, ...]] = (
        _row("ave-swin-htsat", "swinv2_l", "htsat", 83.3, 338.0, 23.0),
        _row("ave-swin-shared", "swinv2_l", "shared", 82.3, 364.4, 37.2),
        _row("ave-vit-shared", "vit_l16", "shared", 80.6, 532.2, 38.8),
        _row("ave-resnext-htsat", "resnext101", "htsat", 80.1, 151.6, None),
    )
    published_vocabulary: ClassVar[Mapping[str, Sequence[str]]] = {"categories": tuple(str(c) for c in range(28))}
    published_segments: ClassVar[int] = 10

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        samples: pa.Table,
        vocabulary: Mapping[str, Sequence[str]],
        segments: int,
        method: MethodChoice,
        options: AvelHeadOptions,
    ) -> None:
        self.categories = category_names(vocabulary)
        if "background" in self.categories:
            raise DatasetError("the vocabulary lists 'background', which is implicit: every second outside an event")
        self.layers, self.pooled = method.layers(layers), method.pooled(layers)
        self.samples = samples
        self.method = method
        self.options = options
        self.labels = segment_labels(
            samples["category"].to_pylist(),
            samples["start"].to_pylist(),
            samples["end"].to_pylist(),
            vocabulary=self.categories,
            segments=segments,
        )

    def build_model(self) -> nn.Module:
        method = self.method.build(self.layers)
        offered = {"dropout": self.options.dropout, "avps_weight": self.options.avps_weight}
        return build_audio_visual_model(method, self.options.decoder, len(self.categories), offered, self.options)

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Labels ``[B, T]``; the number of categories is background."""
        return torch.from_numpy(self.labels[np.asarray(rows, dtype=np.int64)])

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return cast(Decoder, model.decoder).loss(outputs, targets)

    def interpret(self, outputs: dict[str, Tensor]) -> Predictions:
        """``labels [B, T]`` and ``probabilities [B, T, C + 1]``, the background last, summing to 1.

        Of a decoder with ``segments`` they are the softmax, and the label is the most probable class. One with
        ``event`` and ``category`` decides both apart, so background has ``1 - sigmoid(event)`` and category c
        ``sigmoid(event) * softmax(category)[c]``: a segment is background where that has one half or more, and
        otherwise the most probable *category*, though background may be more probable than it.
        """
        if "event" not in outputs:
            logits = outputs["segments"].float().cpu()
            return {"labels": predict_segments(logits.numpy()), "probabilities": logits.softmax(-1).numpy()}
        event, category = (outputs[name].float().cpu() for name in ("event", "category"))
        occurs = event.sigmoid()[..., None] * category.softmax(-1)[:, None]
        return {
            "labels": predict_event_and_class(event.numpy(), category.numpy()),
            "probabilities": torch.cat((occurs, (-event).sigmoid()[..., None]), -1).numpy(),
        }

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        return {"accuracy": segment_accuracy(predictions["labels"], self._labels(rows))}

    def details(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, object]:
        """Accuracy by category."""
        by_category = category_accuracy(predictions["labels"], self._labels(rows), vocabulary=self.categories)
        return {"accuracy_by_category": by_category}

    def floors(self, rows: Sequence[int]) -> dict[str, float]:
        """What predicting background everywhere scores."""
        labels = self._labels(rows)
        return {"always background": segment_accuracy(np.full_like(labels, len(self.categories)), labels)}

    def prediction_table(self, predictions: Predictions, rows: Sequence[int]) -> pa.Table:
        """One row a segment: annotation row, clip, segment, target and prediction by number and name, ``scores``.

        ``scores`` are the probabilities of all categories and, last, background; their names are in the metadata.
        """
        labels, predicted = self._labels(rows), np.asarray(predictions["labels"])
        names = pa.array([*self.categories, "background"])
        count, segments = labels.shape
        samples = self.samples.take(pa.array(rows, pa.int64()))
        spread = pa.array(np.repeat(np.arange(count), segments))
        table = pa.table(
            {
                "row": samples["row"].take(spread),
                "clip": samples["clip"].take(spread),
                "segment": pa.array(np.tile(np.arange(segments, dtype=np.int32), count)),
                "target": pa.array(labels.reshape(-1).astype(np.int32)),
                "prediction": pa.array(predicted.reshape(-1).astype(np.int32)),
                "target_name": names.take(pa.array(labels.reshape(-1))),
                "prediction_name": names.take(pa.array(predicted.reshape(-1))),
                "scores": score_lists(predictions["probabilities"]),
            }
        )
        return table.replace_schema_metadata({"categories": json.dumps(names.to_pylist())})

    def _labels(self, rows: Sequence[int]) -> np.ndarray:
        return self.labels[np.asarray(rows, dtype=np.int64)]
