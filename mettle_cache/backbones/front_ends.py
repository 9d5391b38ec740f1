"""Media to a timm network's input: frames as normalised pictures, and sound as LAVISH's log-mel pictures.

Source: docs/protocols/avel.md, "Pictures" and "Sound in the shared mode" (log-mel filterbanks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.compliance import kaldi

from mettle_cache.errors import MediaError
from mettle_cache.preprocessing import Recording

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


SAMPLE_RATE = 16000
SLACK = 0.1  # seconds that LAVISH leaves after the last window
FRAME_SECONDS = 0.025  # Kaldi's
FRAME = int(SAMPLE_RATE * FRAME_SECONDS)
FILE_RATES = (4_000, 384_000)
"""Hz, from the least to the most, at which a file is heard as it is."""


@dataclass(frozen=True, kw_only=True)
class FbankImage:
    """A window of sound to a picture [3, H, W], H time and W mel.

    ``frames`` rows: shorter spectra get rows of zeros after the normalisation ``(x - mean) / (2 std)``, longer ones
    are cut. ``size`` resizes the picture bilinearly, for backbones that want another one; None keeps it.
    ``file_sound``: sound files are heard as they are, one channel at their own rate; other media at 16 kHz.
    """

    mel_bins: int
    frame_shift_ms: float
    frames: int
    mean: float
    std: float
    window_seconds: float = 1.0
    size: tuple[int, int] | None = None
    file_sound: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, *(self.size or (self.frames, self.mel_bins)))

    def __call__(self, sound: np.ndarray | Recording, segments: int) -> Tensor:
        """A mono float waveform [samples] at 16 kHz, or a recording at its own rate, to [T, 3, H, W] float32.

        Raises
        ------
        MediaError
            Not one channel of finite floats, less than the 25 ms of one frame, or a rate that no sound has.
        """
        recording = sound if isinstance(sound, Recording) else Recording(sound, SAMPLE_RATE)
        rate = recording.rate
        if not FILE_RATES[0] <= rate <= FILE_RATES[1]:
            raise MediaError(f"a rate of {rate} Hz is not from {FILE_RATES[0]} to {FILE_RATES[1]} Hz")
        samples = torch.from_numpy(check_waveform(recording.samples, shortest=int(rate * FRAME_SECONDS)))
        samples = samples - samples.mean()
        windows = cut_windows(samples, segments, self.window_seconds, rate)
        pictures = torch.stack([self._spectrum(window, rate) for window in windows]).unsqueeze(1)
        if self.size is not None and self.size != tuple(pictures.shape[-2:]):
            pictures = functional.interpolate(pictures, self.size, mode="bilinear", align_corners=False)
        return pictures.expand(-1, 3, -1, -1).contiguous()

    def _spectrum(self, window: Tensor, rate: int) -> Tensor:
        """[samples] to [frames, mel_bins]."""
        bands = kaldi.fbank(
            window.unsqueeze(0),
            htk_compat=True,
            sample_frequency=rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.mel_bins,
            dither=0.0,
            frame_shift=self.frame_shift_ms,
        )
        bands = (bands[: self.frames] - self.mean) / (2 * self.std)
        return functional.pad(bands, (0, 0, 0, self.frames - bands.shape[0]))

    def to_json(self) -> dict[str, object]:
        described = {"kind": "kaldi fbank", "sample_rate": SAMPLE_RATE, **asdict(self)}
        described["size"] = None if self.size is None else list(self.size)
        # stores that hear the mean of all channels have never said so
        if described.pop("file_sound"):
            described["sound_files"] = "first channel at its own rate"
        return described


# docs/protocols/avel.md, "Sound in the shared mode"
SWIN_FBANK = FbankImage(mel_bins=192, frame_shift_ms=5.2, frames=192, mean=-4.984795570373535, std=3.7079780101776123)
VIT_FBANK = FbankImage(mel_bins=128, frame_shift_ms=10.0, frames=102, mean=-4.1426, std=3.2001)


def cut_windows(samples: Tensor, segments: int, seconds: float = 1.0, rate: int = SAMPLE_RATE) -> list[Tensor]:
    """T windows whose starts are evenly spaced, rounded down, from 0 to a window and 0.1 s before the end.

    The whole waveform T times when it is not longer than that.
    """
    window, left = int(rate * seconds), rate * (seconds + SLACK)
    if len(samples) <= left:
        return [samples] * segments
    starts = np.linspace(0, len(samples) - left, num=segments, dtype=int)
    return [samples[start : start + window] for start in starts]


def check_waveform(waveform: np.ndarray, *, shortest: int = FRAME) -> np.ndarray:
    """The waveform as a writable float32 array [samples]; raises MediaError for anything that is none."""
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise MediaError(f"a waveform is floats [samples], not {waveform.dtype} {list(waveform.shape)}")
    if len(waveform) < shortest:
        raise MediaError(f"a waveform of {len(waveform)} samples is shorter than one frame ({shortest} samples)")
    samples = np.array(waveform, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise MediaError("a waveform holds values that are not finite numbers")
    return samples
