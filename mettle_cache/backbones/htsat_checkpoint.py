"""The published HTS-AT checkpoints: their key names to ours, their sizes from their shapes.

Source: docs/protocols/htsat.md, "Checkpoint conversion".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mettle_cache.backbones.htsat_frontend import MelSettings, dft_kernels
from mettle_cache.backbones.htsat_trunk import Htsat, HtsatSizes
from mettle_cache.errors import WeightsError
from mettle_cache.statedict import explain_mismatch, read_state_dict

MEL = "logmel_extractor.melW"
COSINES = "spectrogram_extractor.stft.conv_real.weight"
SINES = "spectrogram_extractor.stft.conv_imag.weight"
BLOCK = r"layers\.\d+\.blocks\.\d+\."

LANDMARKS = (MEL, COSINES, SINES, "bn0.weight", "patch_embed.proj.weight", "norm.weight", "tscam_conv.weight")
"""Names by which the original model is known, whatever stands before them: ``sed_model.`` in the released files."""

HALF = 2**-8
"""The largest relative rounding of a checkpoint that was saved in float16 or bfloat16."""

KEPT = re.compile(rf"bn0\.|patch_embed\.|norm\.|{BLOCK}(norm[12]|mlp|attn\.(qkv|proj|relative_position_bias_table))")
MERGING = re.compile(r"layers\.(\d+)\.downsample\.")
RECOMPUTED = re.compile(rf"{BLOCK}(attn\.relative_position_index|attn_mask)$")
UNUSED = re.compile(r"(head|tscam_conv)\.|spectrogram_extractor\.|logmel_extractor\.")

HINT = "give the AudioSet checkpoint of HTS-AT at 32 kHz, HTSAT_AudioSet_Saved_*.ckpt"


def load_htsat(path: Path, *, exact_dft: bool = False) -> tuple[Htsat, str]:
    """The trunk with a checkpoint's weights: every one of them, strictly; and their source.

    Raises
    ------
    WeightsError
        An unreadable file, keys that the original model does not have (LAION's fused CLAP towers for example), a front
        end of another sample rate or window, or buffers that are not those which timm computes.
    """
    weights = read_state_dict(path, LANDMARKS)
    if "audio_branch." in weights.prefix:
        raise WeightsError(
            f"weights file {path} is of LAION's CLAP: it has no front end of HTS-AT at 32 kHz", hint=HINT
        )
    state = weights.tensors
    _check_front_end_keys(state, path)
    try:
        sizes = read_sizes(state)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"weights file {path} is not of HTS-AT: no usable {error}", hint=HINT) from error
    if _check_front_end(state, sizes.mel, path):
        # too coarse for decibels, and what they were rounded from is known
        state |= {MEL: sizes.mel.filters()} | dict(zip((COSINES, SINES), dft_kernels(sizes.mel.n_fft), strict=True))
    model = Htsat(sizes, filters=state[MEL], dft=(state[COSINES], state[SINES]) if exact_dft else None)
    converted = convert_keys(state, path)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("logmel.")}
    wrong = [key for key in expected | converted if _shape(expected, key) != _shape(converted, key)]
    if wrong:
        raise WeightsError(explain_mismatch(expected, converted, f"weights file {path}"), hint=HINT)
    model.load_state_dict(converted | {k: v for k, v in model.state_dict().items() if k.startswith("logmel.")})
    _check_recomputed(state, model, path)
    return model, weights.source


def convert_keys(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Original names to :class:`Htsat`'s. Merging moves from the end of a stage to the start of the next."""
    converted: dict[str, Tensor] = {}
    strangers: list[str] = []
    for key, value in state.items():
        merging = MERGING.match(key)
        if merging:
            stage = int(merging.group(1)) + 1
            converted[f"swin.layers.{stage}.downsample.{key[merging.end() :]}"] = value
        elif KEPT.match(key):
            # averaged checkpoints hold every entry as float32, counters too; a float16 cannot hold a large count
            value = value.nan_to_num(posinf=0).long() if key.endswith("num_batches_tracked") else value
            converted[key if key.startswith("bn0.") else f"swin.{key}"] = value
        elif not (RECOMPUTED.match(key) or UNUSED.match(key)):
            strangers.append(key)
    if strangers:
        raise WeightsError(
            f"weights file {path} has {len(strangers)} keys that HTS-AT does not have: {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}",
            hint=f"{HINT}; LAION's CLAP files, fused ones above all, are another model",
        )
    return converted


def read_sizes(state: Mapping[str, Tensor]) -> HtsatSizes:
    """Width, depths, heads, window, image and front end from the shapes."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    blocks = [
        tuple(map(int, match.groups())) for key in state if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key))
    ]
    stages = 1 + max(stage for stage, _ in blocks)
    depths = tuple(1 + max(block for stage, block in blocks if stage == s) for s in range(stages))
    tables = [state[f"layers.{s}.blocks.0.attn.relative_position_bias_table"] for s in range(stages)]
    window = (math.isqrt(tables[0].shape[0]) + 1) // 2
    mask = state.get("layers.0.blocks.1.attn_mask")
    image = 256 if mask is None else patch * window * math.isqrt(mask.shape[0])
    n_fft, mels = 2 * (state[MEL].shape[0] - 1), state[MEL].shape[1]
    head = state.get("tscam_conv.bias")
    return HtsatSizes(
        width=width,
        depths=depths,
        heads=tuple(table.shape[1] for table in tables),
        window=window,
        patch=patch,
        image=image,
        classes=527 if head is None else len(head),
        mel=MelSettings(n_fft=n_fft, mels=mels),
    )


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _check_front_end_keys(state: Mapping[str, Tensor], path: Path) -> None:
    missing = [key for key in (MEL, COSINES, SINES) if key not in state]
    if missing:
        raise WeightsError(f"weights file {path} has no front end of HTS-AT: {', '.join(missing)} not in it", hint=HINT)


def _check_front_end(state: Mapping[str, Tensor], mel: MelSettings, path: Path) -> bool:
    """The filters tell the sample rate, which nothing else in a checkpoint does; the first kernel is the window.

    Whether they are rounded to float16 or bfloat16.
    """
    filters, expected = state[MEL], mel.filters()
    atol = 1e-4 * float(expected.max())
    if not torch.allclose(filters, expected, rtol=HALF, atol=atol):
        raise WeightsError(
            f"weights file {path}: its mel filters are not those of {mel.sample_rate} Hz, {mel.f_min:g} to "
            f"{mel.f_max:g} Hz: another sample rate (LAION's CLAP files have 48 kHz) or another front end",
            hint=HINT,
        )
    window = torch.hann_window(mel.n_fft, periodic=True)
    shape = (mel.n_fft // 2 + 1, 1, mel.n_fft)
    kernels = (state[COSINES], state[SINES])
    if any(tuple(kernel.shape) != shape for kernel in kernels) or not torch.allclose(
        kernels[0][0, 0], window, rtol=HALF, atol=1e-5
    ):
        raise WeightsError(f"weights file {path}: its STFT is not of a Hann window of {mel.n_fft} samples", hint=HINT)
    return not torch.allclose(filters, expected, rtol=0, atol=atol)


def _check_recomputed(state: Mapping[str, Tensor], model: Htsat, path: Path) -> None:
    """timm computes these buffers itself; a checkpoint that has others is of another window, shift or order."""
    buffers = dict(model.swin.named_buffers())
    for key, value in state.items():
        if not RECOMPUTED.match(key):
            continue
        buffer = buffers.get(key)
        # integers come as floats from averaged checkpoints
        if buffer is None or buffer.shape != value.shape or not torch.equal(buffer.long(), value.long()):
            raise WeightsError(f"weights file {path}: its buffer '{key}' is not the one of HTS-AT", hint=HINT)
