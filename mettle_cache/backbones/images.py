"""Pictures to normalised tensors (spec-avel.md section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mettle_cache.errors import MediaError

INTERPOLATIONS = ("bicubic", "bilinear")


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """RGB in [0, 1] as floats, both sides resized directly (no crop, no clamping of overshoot), then normalised.

    Without ``antialias`` this is torchvision 0.14's resize of float tensors, which the peers use.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    antialias: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, *self.size)

    def __call__(self, frames: Sequence[np.ndarray], segments: int) -> Tensor:
        """T uint8 pictures [H, W, 3], of any and different sizes, to [T, 3, *size] float32.

        Raises
        ------
        MediaError
            Not T pictures, or one that is not uint8 [H, W, 3].
        """
        if len(frames) != segments:
            raise MediaError(f"a clip of {segments} segments needs {segments} pictures, not {len(frames)}")
        resized = torch.empty((segments, 3, *self.size))
        for index, frame in enumerate(frames):
            resized[index] = self._resize(frame, index)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return resized.sub_(mean).div_(std)

    def _resize(self, frame: np.ndarray, index: int) -> Tensor:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise MediaError(f"picture {index} is {frame.dtype} {list(frame.shape)}, not RGB uint8 [H, W, 3]")
        # the copy lifts read-only arrays; permuting without one keeps the channels-last order, which resizes fastest
        pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1).unsqueeze(0)
        return functional.interpolate(
            pixels / 255, self.size, mode=self.interpolation, align_corners=False, antialias=self.antialias
        )[0]

    def to_json(self) -> dict[str, object]:
        lists = {"size": list(self.size), "mean": list(self.mean), "std": list(self.std)}
        return {"kind": "picture", "resize": "both sides", **asdict(self), **lists}
