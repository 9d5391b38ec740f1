"""Audio-visual segmentation on AVSBench: which pixels of each frame belong to what sounds (docs/protocols/avs.md).

Shapes: B or R videos, F frames, M frames with a mask, the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.fpn import SIDE
from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.layers import MODALITIES, LayerSpec, select_layers
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.metrics.avs import (
    frame_f_curve,
    frame_iou,
    global_f_measure,
    grouped_f_measure,
    mean_iou,
    predict_masks,
    probabilities,
)
from mettle_cache.tasks.avs.model import (
    AVS_METHODS,
    FEEDS,
    AvsHeadOptions,
    SegmentationModel,
    mixed_layers,
    without_mti,
)
from mettle_cache.tasks.avs.pictures import mask_png
from mettle_cache.tasks.avs.published import PUBLISHED
from mettle_cache.tasks.model import require_method
from mettle_cache.tasks.protocol import Frames, Predictions, PublishedRow, Task

MASK_BYTES = SIDE * SIDE // 8
PYRAMID_STAGES = 4


class AvsTask(Task):
    """Segmentation on the samples of one store; see :class:`mettle_cache.tasks.protocol.Task`."""

    sample_schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("row", pa.int64()),
            ("clip", pa.string()),
            ("split", pa.string()),
            ("clips", pa.list_(pa.string())),
            ("masks", pa.list_(pa.binary())),
        ]
    )
    options_type: ClassVar[type] = AvsHeadOptions
    metric: ClassVar[str] = "miou"
    published: ClassVar[tuple[PublishedRow, ...]] = PUBLISHED
    published_vocabulary: ClassVar[Mapping[str, Sequence[str]]] = {}
    published_segments: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...] | None] = AVS_METHODS

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        samples: pa.Table,
        vocabulary: Mapping[str, Sequence[str]],
        segments: int,
        method: MethodChoice,
        options: AvsHeadOptions,
    ) -> None:
        require_method(method, AVS_METHODS, reason="segmentation injects each meta-token by itself")
        options = without_mti(method, options)
        self.visual, self.audio = (_levels(layers, modality) for modality in MODALITIES)
        # a layer that nothing reads need not leave the disk
        read = {*self.visual, *_heard(self.audio, method, options), *_chosen(layers, self.visual, method, options)}
        self.layers = tuple(layer for layer in layers if layer in read)
        self.samples = samples
        self.method = method
        self.options = options
        self.masks: list[list[bytes]] = samples["masks"].to_pylist()
        _check_samples(samples, self.masks, options)

    def build_model(self) -> nn.Module:
        return SegmentationModel(self.visual, self.audio, self.method, self.options, offered=self.layers)

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Masks ``[B, M, 224, 224]``, booleans."""
        return torch.from_numpy(self._masks(rows))

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of the frames that have masks (in S4's training the first), mean over their pixels."""
        logits = outputs["logits"][:, : targets.shape[1]]
        terms = {"mask": functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))}
        if "matching" in outputs:
            terms["matching"] = self.options.matching_weight * outputs["matching"].sum()
        return terms

    def interpret(self, outputs: dict[str, Tensor]) -> Predictions:
        """``masks``, booleans, and ``probabilities`` of foreground, ``[B, F, 224, 224]`` each."""
        probability = probabilities(outputs["logits"].float().cpu().numpy())
        return {"masks": predict_masks(probability), "probabilities": probability}

    def predict(self, outputs: dict[str, Tensor], rows: Sequence[int]) -> Predictions:
        """Packed masks ``[B, M, 6272]``, :func:`mask_confidence` and IoU ``[B, M]``, and what F-measures need.

        That is sums ``[B, 255]`` of F-curves over ``counted [B]`` frames.
        """
        truth = self._masks(rows)
        masks, probability = (array[:, : truth.shape[1]] for array in self.interpret(outputs).values())
        return {
            "masks": np.packbits(masks.reshape(*masks.shape[:2], -1), axis=-1),
            "confidence": mask_confidence(masks, probability),
            "iou": frame_iou(masks, truth),
            "curves": frame_f_curve(probability, truth).sum(1),
            "counted": truth.any((-2, -1)).sum(1),
        }

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        """Per cent; ``f_measure`` has one threshold for every ``group`` videos, ``f_measure_global`` one for all."""
        curves, counted = predictions["curves"], predictions["counted"]
        return {
            "miou": mean_iou(predictions["iou"]),
            "f_measure": grouped_f_measure(curves, counted, group=self.options.group),
            "f_measure_global": global_f_measure(curves, counted),
        }

    def changed_share(self, predictions: Predictions, others: Predictions) -> float:
        """Of all pixels, those that are foreground in one of the two."""
        ours, theirs = np.asarray(predictions["masks"]), np.asarray(others["masks"])
        return float(_pixels(ours ^ theirs).sum()) / (8 * ours.size)

    def details(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, object]:
        """The size of the F-measure's groups, and mIoU of the frames with and without foreground."""
        empty = ~self._packed(rows).any(-1)
        parts = {"miou_with_foreground": ~empty, "miou_without_foreground": empty}
        return {
            "f_measure_group": self.options.group,
            "frames": int(empty.size),
            "frames_without_foreground": int(empty.sum()),
            **{name: mean_iou(predictions["iou"][chosen]) for name, chosen in parts.items() if chosen.any()},
        }

    def floors(self, rows: Sequence[int]) -> dict[str, float]:
        """What calling every pixel foreground, or every pixel background, scores."""
        # video by video: a whole split of unpacked masks would take a gigabyte
        masks = (self._masks([row]) for row in rows)
        pairs = [(frame_iou(np.ones_like(truth), truth), frame_iou(np.zeros_like(truth), truth)) for truth in masks]
        foreground, background = zip(*pairs, strict=True)
        return {
            "all foreground": mean_iou(np.concatenate(foreground)),
            "all background": mean_iou(np.concatenate(background)),
        }

    def prediction_table(self, predictions: Predictions, rows: Sequence[int]) -> pa.Table:
        """One row a frame: annotation row, video, frame from 1, IoU, and foreground pixels of truth and prediction.

        ``confidence`` is :func:`mask_confidence`, null for an empty mask; ``mask`` is the path of the mask's picture
        within the folder of artefacts.
        """
        truth = self._packed(rows)
        count, frames = truth.shape[:2]
        samples = self.samples.take(pa.array(rows, pa.int64()))
        spread = pa.array(np.repeat(np.arange(count), frames))
        return pa.table(
            {
                "row": samples["row"].take(spread),
                "clip": samples["clip"].take(spread),
                "frame": pa.array(np.tile(np.arange(1, frames + 1, dtype=np.int32), count)),
                "iou": pa.array(np.asarray(predictions["iou"]).reshape(-1)),
                "target_pixels": pa.array(_pixels(truth).reshape(-1).astype(np.int32)),
                "predicted_pixels": pa.array(_pixels(predictions["masks"]).reshape(-1).astype(np.int32)),
                "confidence": pa.array(predictions["confidence"].reshape(-1), pa.float32(), from_pandas=True),
                "mask": [_picture(clip) for clips in samples["clips"].to_pylist() for clip in clips[:frames]],
            }
        )

    def artefacts(self, predictions: Predictions, rows: Sequence[int], frames: Frames) -> Iterator[tuple[str, bytes]]:
        """``masks/CLIP.png`` of every predicted frame."""
        clips = self.samples["clips"].to_pylist()
        for number, row in enumerate(rows):
            # frames beyond those with a mask are not predicted
            for clip, mask in zip(clips[row], _unpack(predictions["masks"][number]), strict=False):
                yield _picture(clip), mask_png(mask)

    def _masks(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Masks ``[B, M, 224, 224]``; the samples of a split have the same number each."""
        return _unpack(self._packed(rows))

    def _packed(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Masks ``[B, M, 6272]`` as they are stored."""
        return np.array([[np.frombuffer(mask, np.uint8) for mask in self.masks[row]] for row in rows], np.uint8)


def mask_confidence(masks: NDArray[np.bool_], probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """How sure a head is of what it calls foreground: the mean probability of these pixels, NaN where there are none.

    ``[..., H, W]`` each to ``[...]``, above one half.
    """
    pixels = masks.sum((-2, -1))
    total = np.where(masks, probability, 0).sum((-2, -1), dtype=np.float64)
    confidence: NDArray[np.float32] = np.where(pixels, total / np.maximum(pixels, 1), np.nan).astype(np.float32)
    return confidence


def _picture(clip: str) -> str:
    """The path of a mask's picture; an id may hold a slash, and then it is still one file."""
    return f"masks/{clip.replace('/', '_')}.png"


def _levels(layers: Sequence[LayerSpec], modality: str) -> tuple[LayerSpec, ...]:
    """The pyramid of one modality's layers, fine to coarse, as much of it as there is."""
    of_modality = [layer for layer in layers if layer.modality == modality]
    return select_layers(of_modality, "pyramid") if of_modality else ()


def _chosen(
    layers: Sequence[LayerSpec], visual: Sequence[LayerSpec], method: MethodChoice, options: AvsHeadOptions
) -> tuple[LayerSpec, ...]:
    """The layers that a method chooses itself, of those offered. Raises UsageError where it finds too few."""
    feed = FEEDS[method.name]
    if feed == "mixed":
        return tuple(layer for stage in mixed_layers(layers, visual) for layer in stage)
    if feed != "tokens" or not options.mti:
        return ()
    try:
        return method.layers(layers)
    except UsageError as error:
        raise UsageError(error.message, hint=f"{error.hint}. The masks want visual/pyramid beside them") from error


def _heard(audio: Sequence[LayerSpec], method: MethodChoice, options: AvsHeadOptions) -> tuple[LayerSpec, ...]:
    """The levels of the sound that the model reads, counted from the last, which is level 4.

    Raises
    ------
    UsageError
        The store has not all of them.
    """
    by_level = options.mti and options.cross and FEEDS[method.name] == "levels"
    levels = set(options.lcd_levels if by_level else ()) | ({PYRAMID_STAGES} if options.tpavi else set())
    missing = [level for level in sorted(levels) if PYRAMID_STAGES - level >= len(audio)]
    if missing:
        raise UsageError(
            f"the head reads the sound of level {missing[0]}, and {len(audio)} audio layers are selected",
            hint="extract with --layers visual/pyramid,audio/pyramid, and set layers to the same in the recipe",
        )
    return tuple(audio[level - PYRAMID_STAGES - 1] for level in sorted(levels))


def _check_samples(samples: pa.Table, masks: Sequence[Sequence[bytes]], options: AvsHeadOptions) -> None:
    """Raise for masks that are no masks, and for videos that TPAVI cannot serve alike."""
    for row, frames in zip(samples["row"].to_pylist(), masks, strict=True):
        if any(len(mask) not in (0, MASK_BYTES) for mask in frames):
            raise DatasetError(f"sample {row}: a mask is not {SIDE} x {SIDE} packed bits ({MASK_BYTES} bytes)")
    lengths = sorted({len(clips) for clips in samples["clips"].to_pylist()})
    if options.tpavi and len(lengths) > 1:
        raise UsageError(
            f"TPAVI relates the frames of a video, and videos of this store hold {lengths[0]} or {lengths[-1]} of them",
            hint="extract with --option train_frames=5",
        )


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """``[..., 6272]`` to ``[..., 224, 224]``."""
    return np.unpackbits(packed, axis=-1).reshape(*packed.shape[:-1], SIDE, SIDE).astype(np.bool_)


def _pixels(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Foreground pixels of packed masks ``[..., 6272]``."""
    counts: NDArray[np.int64] = np.bitwise_count(packed).sum(-1, dtype=np.int64)
    return counts
