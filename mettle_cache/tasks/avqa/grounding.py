"""Grounding generation, the training that precedes that of the AVQA head: does this picture belong to this sound?

Its seven layers (docs/protocols/avqa.md, "Grounding") see the backbones' own last layers, no meta-tokens. A sample is a
video, all of whose T seconds are pairs. The pictures that do not belong to a sound come from other videos than its own,
here as in the training of the whole head (docs/protocols/avqa.md, "Losses and negatives").

Shapes: B videos or samples, T seconds, N positions; V videos of the split. A video is a number, the same for all its
questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet, Pictures, match_targets
from mettle_cache.errors import UsageError, WeightsError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.sealing import file_seal_fits
from mettle_cache.statedict import explain_mismatch, read_state_dict
from mettle_cache.tasks.avqa.model import last_layers, take_seconds
from mettle_cache.tasks.protocol import Predictions, StepInputs
from mettle_cache.tokens import LayerTokens

Numbers = NDArray[np.int64]


def load_grounding(net: GroundingNet, path: Path) -> None:
    """Take the seven layers from a file: one that ``mettle pretrain-grounding`` wrote, or a peer's.

    Peers' files have ``module.`` before every name and more layers than the seven; what else they hold is left alone.

    Raises
    ------
    WeightsError
        No such file, a pickle with more in it than tensors, a layer that is missing or of another shape.
    """
    if not file_seal_fits(path):
        raise WeightsError(
            f"grounding file {path} is damaged: it is not as it was written",
            hint="write it again with: mettle pretrain-grounding --resume --out FILE",
        )
    ours = net.state_dict()
    theirs = {name: tensor for name, tensor in read_state_dict(path, ours).tensors.items() if name in ours}
    if {name: tensor.shape for name, tensor in theirs.items()} != {name: tensor.shape for name, tensor in ours.items()}:
        raise WeightsError(
            explain_mismatch(ours, theirs, f"grounding file {path}"),
            hint="take one that was trained on this store's backbones, with head.dim = none and lcd.dim = none",
        )
    net.load_state_dict(theirs)


class GroundingModel(nn.Module):
    """The seven layers on the mean token of the last audio layer and on all tokens of the last visual one."""

    def __init__(self, visual: LayerSpec, audio: LayerSpec) -> None:
        super().__init__()
        self.seen, self.heard = visual.name, audio.name
        self.grounding = GroundingNet(audio.width, visual.width)

    def forward(
        self, tokens: Mapping[str, LayerTokens], negative_clip: Tensor, negative_second: Tensor
    ) -> dict[str, Tensor]:
        """Tokens ``[B + R, T, N, D]`` of B videos and R others to ``match [2 B T, 2]``, each pair's positive first."""
        precision = self.grounding.fc_gl.weight.dtype
        samples = slice(0, len(negative_clip))
        with torch.autocast(negative_clip.device.type, enabled=False):
            audio = mean_token(tokens[self.heard][samples], precision)
            negative = take_seconds(tokens[self.seen], negative_clip, negative_second)
            pictures = [Pictures.of(layer.floats(precision)) for layer in (tokens[self.seen][samples], negative)]
            match = self.grounding(audio, *pictures).match
        return {"match": match}


class GroundingTask:
    """What the training loop asks of a :class:`mettle_cache.tasks.protocol.Task`, on the videos of one store.

    No recipe names it and no run of it is evaluated. ``samples`` are questions, of which it wants one a video.
    """

    metric: ClassVar[str] = "accuracy"

    def __init__(self, layers: Sequence[LayerSpec], *, samples: pa.Table, segments: int) -> None:
        self.layers = last_layers(layers)
        if len(self.layers) < 2:
            raise UsageError(
                "grounding needs a visual and an audio layer, and the store has one of them only",
                hint="extract the store again with both",
            )
        self.segments = segments
        _, self.video_of = np.unique(np.array(samples["clip"].to_pylist(), dtype=str), return_inverse=True)

    def build_model(self) -> nn.Module:
        return GroundingModel(*self.layers)

    def inputs(self, rows: Sequence[int], *, split_rows: Sequence[int], rng: np.random.Generator | None) -> StepInputs:
        """A negative for every second, from the step's other videos, so that nothing more is read.

        Rows are videos in random order: each other one is as likely to be in the step, so a negative is uniform over
        all of them. Where nothing is to be drawn, in scoring, the same rows get the same negatives.
        """
        drawn = rng or np.random.Generator(np.random.PCG64([len(rows), *rows]))
        videos = rows if len(set(self.video_of[list(rows)])) > 1 else split_rows
        return negative_inputs(self.video_of, rows, videos, segments=self.segments, at_most=None, rng=drawn)

    def targets(self, rows: Sequence[int]) -> Tensor:
        """``[2 B T]``: 1, 0, 1, 0."""
        return match_targets(torch.empty(2 * len(rows) * self.segments, 0))

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        return {"match": functional.cross_entropy(outputs["match"], targets)}

    def predict(self, outputs: dict[str, Tensor], rows: Sequence[int]) -> Predictions:
        """``right [B, 2 T]``: whether each positive and each negative was told."""
        logits = outputs["match"].float().cpu()
        right = logits.argmax(dim=-1) == match_targets(logits)
        return {"right": right.unflatten(0, (len(rows), -1)).numpy()}

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        """Percentage of pairs told rightly; half of them are positive."""
        return {"accuracy": 100.0 * float(np.mean(predictions["right"]))}


def draw_negatives(
    of_samples: Numbers, videos: Numbers, *, segments: int, at_most: int | None, rng: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """A video and a second of it, both ``[B, T]``, for every second of the videos ``of_samples [B]``.

    Each is uniform over all other ``videos`` and then over the T seconds. ``at_most`` bounds the videos of a step, and
    so what it reads: that many are drawn uniformly and without replacement, then each second draws from them. By
    symmetry no other video is likelier than another for any second; but the seconds of a step share the few videos.

    Raises
    ------
    UsageError
        There is no other video.
    """
    if len(videos) < 2:
        raise UsageError(
            f"negatives come from other videos, and the split has {len(videos)}",
            hint="extract more videos of it",
        )
    few = videos if at_most is None or at_most >= len(videos) else rng.choice(videos, at_most, replace=False)
    # the place of a sample's video among the few, or past their end
    place = np.where((few == of_samples[:, None]).any(1), (few == of_samples[:, None]).argmax(1), len(few))[:, None]
    drawn = rng.integers(0, len(few) - (place < len(few)), size=(len(of_samples), segments))
    return few[drawn + (drawn >= place)], rng.integers(0, segments, size=(len(of_samples), segments))


def negative_inputs(
    video_of: Numbers,
    rows: Sequence[int],
    split_rows: Sequence[int],
    *,
    segments: int,
    at_most: int | None,
    rng: np.random.Generator,
) -> StepInputs:
    """What a step is given to find its negatives: ``negative_clip`` and ``negative_second``, ``[B, T]`` each.

    ``video_of`` is the video of every sample; ``negative_clip`` counts along the leading axis of the step's tokens.
    Videos that the step reads anyway are not read again.
    """
    of_samples = video_of[np.asarray(rows, dtype=np.int64)]
    videos, first = np.unique(video_of[np.asarray(split_rows, dtype=np.int64)], return_index=True)
    drawn, seconds = draw_negatives(of_samples, videos, segments=segments, at_most=at_most, rng=rng)
    place = {int(video): position for position, video in reversed(list(enumerate(of_samples)))}
    extra = [int(video) for video in np.unique(drawn) if int(video) not in place]
    place |= {video: len(of_samples) + number for number, video in enumerate(extra)}
    clips = np.vectorize(place.__getitem__, otypes=[np.int64])(drawn)
    return StepInputs(
        rows=tuple(split_rows[first[np.searchsorted(videos, video)]] for video in extra),
        tensors={"negative_clip": torch.from_numpy(clips), "negative_second": torch.from_numpy(seconds)},
    )
