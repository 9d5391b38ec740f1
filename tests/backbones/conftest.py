"""Checkpoints of HTS-AT in the form of the released file, made from the original key table alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

BINS, MELS, N_FFT, WINDOW = 513, 64, 1024, 8


@dataclass(frozen=True)
class OriginalSizes:
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    classes: int = 527


SMALL = OriginalSizes(width=24, depths=(2, 2, 2, 2), heads=(2, 4, 8, 16), classes=20)
FULL = OriginalSizes()


def original_shapes(sizes: OriginalSizes) -> dict[str, tuple[int, ...]]:
    """Parameters of the original module that a trunk has, by their names there."""
    shapes: dict[str, tuple[int, ...]] = {"bn0.weight": (MELS,), "bn0.bias": (MELS,)}
    shapes |= {"patch_embed.proj.weight": (sizes.width, 1, 4, 4), "patch_embed.proj.bias": (sizes.width,)}
    shapes |= {"patch_embed.norm.weight": (sizes.width,), "patch_embed.norm.bias": (sizes.width,)}
    for stage, (depth, heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True)):
        d = sizes.width << stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}."
            for norm in ("norm1", "norm2"):
                shapes |= {f"{at}{norm}.weight": (d,), f"{at}{norm}.bias": (d,)}
            shapes[f"{at}attn.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, heads)
            for name, out, given in (
                ("attn.qkv", 3 * d, d),
                ("attn.proj", d, d),
                ("mlp.fc1", 4 * d, d),
                ("mlp.fc2", d, 4 * d),
            ):
                shapes |= {f"{at}{name}.weight": (out, given), f"{at}{name}.bias": (out,)}
        if stage < len(sizes.depths) - 1:
            at = f"layers.{stage}.downsample."
            shapes |= {
                f"{at}norm.weight": (4 * d,),
                f"{at}norm.bias": (4 * d,),
                f"{at}reduction.weight": (2 * d, 4 * d),
            }
    last = sizes.width << (len(sizes.depths) - 1)
    shapes |= {"norm.weight": (last,), "norm.bias": (last,)}
    shapes |= {"tscam_conv.weight": (sizes.classes, last, 2, 3), "tscam_conv.bias": (sizes.classes,)}
    return shapes | {"head.weight": (sizes.classes, sizes.classes), "head.bias": (sizes.classes,)}


def draw(name: str, shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    """``initial`` as the original initialises; ``stress`` far from that, where every part of the model shows."""
    noise = torch.randn(shape, generator=generator)
    is_norm = "norm" in name or name.startswith("bn0")
    if kind == "initial":
        return 0.02 * noise if noise.ndim > 1 else torch.full(shape, float(is_norm and name.endswith("weight")))
    if "table" in name:
        return noise
    if noise.ndim > 1:
        return noise * 1.5 / math.sqrt(shape[1] * math.prod(shape[2:]))
    return 1 + 0.3 * noise if is_norm and name.endswith("weight") else 0.3 * noise


def front_end(sample_rate: int = 32000) -> dict[str, Tensor]:
    """The fixed tensors, computed apart from the package: numpy for the kernels, transformers for the filters."""
    from transformers.audio_utils import mel_filter_bank

    angle = 2 * np.pi * np.outer(np.arange(BINS), np.arange(N_FFT)) / N_FFT
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    filters = mel_filter_bank(BINS, MELS, 50, 14000, sample_rate, norm="slaney", mel_scale="slaney")
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.tensor(np.cos(angle) * hann).float()[:, None],
        "spectrogram_extractor.stft.conv_imag.weight": torch.tensor(-np.sin(angle) * hann).float()[:, None],
        "logmel_extractor.melW": torch.tensor(filters).float(),
    }


def window_buffers(sizes: OriginalSizes) -> dict[str, Tensor]:
    """``relative_position_index`` of every block and ``attn_mask`` of the shifted ones, by their definitions."""
    rows, columns = np.divmod(np.arange(WINDOW**2), WINDOW)
    reach = 2 * WINDOW - 1
    index = (rows[:, None] - rows + WINDOW - 1) * reach + columns[:, None] - columns + WINDOW - 1
    buffers: dict[str, Tensor] = {}
    for stage, depth in enumerate(sizes.depths):
        side = 64 >> stage
        region = np.digitize(np.arange(side), [side - WINDOW, side - WINDOW // 2])
        regions = region[:, None] * 3 + region
        windows = regions.reshape(side // WINDOW, WINDOW, side // WINDOW, WINDOW).swapaxes(1, 2).reshape(-1, WINDOW**2)
        mask = np.where(windows[:, None, :] == windows[:, :, None], 0.0, -100.0)
        for block in range(depth):
            buffers[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = torch.tensor(index)
            if block % 2 and side > WINDOW:
                buffers[f"layers.{stage}.blocks.{block}.attn_mask"] = torch.tensor(mask).float()
    return buffers


def original_state(sizes: OriginalSizes = SMALL, kind: str = "stress", seed: int = 0) -> dict[str, Tensor]:
    """The whole state dict of the original module."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: draw(name, shape, kind, generator) for name, shape in original_shapes(sizes).items()}
    stress = kind == "stress"
    state["bn0.running_mean"] = torch.full((MELS,), -20.0 * stress) + 5 * stress * torch.randn(
        MELS, generator=generator
    )
    state["bn0.running_var"] = 1 + 150 * stress * torch.rand(MELS, generator=generator)
    state["bn0.num_batches_tracked"] = torch.tensor(1234)
    return state | front_end() | window_buffers(sizes)


def write_released(path: Path, state: dict[str, Tensor]) -> Path:
    """As the released file: the averaging script casts every entry to float32, integers too."""
    torch.save({"state_dict": {f"sed_model.{name}": tensor.float() for name, tensor in state.items()}}, path)
    return path


@pytest.fixture(scope="session")
def originals() -> SimpleNamespace:
    """The original module: ``state``, ``shapes``, ``front_end``, ``write``, and its ``small`` and ``full`` sizes."""
    return SimpleNamespace(
        state=original_state,
        shapes=original_shapes,
        front_end=front_end,
        write=write_released,
        small=SMALL,
        full=FULL,
    )


@pytest.fixture
def frames() -> list[np.ndarray]:
    """Three pictures of different sizes, smooth with hard edges, as photographs are."""
    pictures = []
    for index, (height, width) in enumerate([(90, 120), (64, 64), (33, 200)]):
        y, x = np.mgrid[0:height, 0:width]
        channels = [128 + 100 * np.sin(x / (7 + index) + c) * np.cos(y / 11) for c in range(3)]
        picture = np.stack(channels, axis=-1).astype(np.uint8)
        picture[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 30)
        pictures.append(picture)
    return pictures


@pytest.fixture
def speech() -> Callable[[int, int], np.ndarray]:
    """``speech(samples, sample_rate)``: a gliding harmonic tone with noise, float32."""

    def make(samples: int, sample_rate: int) -> np.ndarray:
        t = np.arange(samples) / sample_rate
        phase = 2 * np.pi * (120 * t + 15 * t**2)
        tone = sum(np.sin(k * phase) / k for k in range(1, 9))
        noise = np.random.default_rng(7).standard_normal(samples)
        return (0.2 * tone + 0.02 * noise).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def realdata() -> Path:
    folder = Path(os.environ.get("METTLE_REALDATA", Path(__file__).parents[3] / "shared" / "realdata"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real weights in {folder}: set METTLE_REALDATA")
    return folder
