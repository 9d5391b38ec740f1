"""HTS-AT against transformers' ClapAudioModel: the same random weights, every block's tokens.

Source: docs/protocols/htsat.md, "Checking a port".
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mettle_cache.backbones import create_backbone

pytest.importorskip("transformers", reason="the reference: pip install transformers (it is in the dev extra)")

TOLERANCE = 5e-5
RENAMES = (
    (r"^bn0\.", "batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.relative_position_bias_table", ".attention.self.relative_position_bias_table"),
)
FIXED = ("spectrogram_extractor.", "logmel_extractor.", "tscam_conv.", "head.")


def reference_model(state: dict[str, Tensor], sizes) -> nn.Module:
    from transformers import ClapAudioConfig, ClapAudioModel

    config = ClapAudioConfig(
        window_size=8,
        num_mel_bins=64,
        spec_size=256,
        patch_size=4,
        patch_stride=[4, 4],
        patch_embeds_hidden_size=sizes.width,
        hidden_size=sizes.width * 8,
        depths=list(sizes.depths),
        num_attention_heads=list(sizes.heads),
        enable_fusion=False,
    )
    model = ClapAudioModel(config).eval()
    model.load_state_dict({f"audio_encoder.{name}": tensor for name, tensor in renamed(state).items()}, strict=True)
    return model


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(FIXED) or name.endswith("attn_mask"):
            continue
        if name.endswith("relative_position_index"):
            names[name.replace(".attn.", ".attention.self.")] = tensor
        elif ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                names[name.replace(".attn.qkv.", f".attention.self.{part}.")] = third
        else:
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            names[name] = tensor
    return names


def reference_tokens(state: dict[str, Tensor], sizes, waveforms: np.ndarray) -> list[Tensor]:
    """Log-mel in numpy by transformers, trunk by ClapAudioModel; every block's output, before merging."""
    from transformers.audio_utils import spectrogram, window_function

    decibels = [
        spectrogram(
            waveform,
            window_function(1024, "hann"),
            frame_length=1024,
            hop_length=320,
            power=2.0,
            mel_filters=state["logmel_extractor.melW"].double().numpy(),
            log_mel="dB",
        ).T
        for waveform in waveforms
    ]
    model = reference_model(state, sizes)
    outputs: list[Tensor] = []
    for stage in model.audio_encoder.layers:
        for block in stage.blocks:
            block.register_forward_hook(lambda _m, _i, output: outputs.append(output[0]))
    with torch.inference_mode():
        model(torch.tensor(np.stack(decibels)).float().unsqueeze(1))
    return outputs


def compare(state: dict[str, Tensor], sizes, path, waveforms: np.ndarray, **options) -> float:
    backbone = create_backbone("htsat", weights=path, **options)
    tiled = np.tile(waveforms, (1, 10))
    expected = reference_tokens(state, sizes, tiled)
    tokens = backbone.forward_tokens(torch.from_numpy(waveforms))
    assert [layer.name for layer in backbone.layers] == list(tokens)
    assert len(expected) == sum(sizes.depths)
    worst = 0.0
    for layer, reference in zip(backbone.layers, expected, strict=True):
        assert tokens[layer.name].shape == reference.shape == (len(waveforms), layer.tokens, layer.width)
        worst = max(worst, float((tokens[layer.name] - reference).abs().max() / reference.abs().max()))
    return worst


@pytest.mark.parametrize("kind", ["stress", "initial"])
@pytest.mark.parametrize("exact_dft", [False, True])
def test_every_block_agrees_with_the_reference(kind, exact_dft, tmp_path, originals, speech):
    state = originals.state(originals.small, kind, seed=3)
    path = originals.write(tmp_path / "HTSAT_AudioSet_Saved_1.ckpt", state)
    waveforms = np.stack([speech(32000, 32000), np.random.default_rng(0).standard_normal(32000).astype(np.float32)])
    assert compare(state, originals.small, path, waveforms, exact_dft=exact_dft) < TOLERANCE


@pytest.mark.parametrize("kind", ["stress", "initial"])
def test_the_full_size_agrees_with_the_reference(kind, tmp_path, originals):
    state = originals.state(originals.full, kind, seed=5)
    path = originals.write(tmp_path / "full.ckpt", state)
    noise = 0.1 * np.random.default_rng(1).standard_normal((1, 32000)).astype(np.float32)
    assert compare(state, originals.full, path, noise) < TOLERANCE


def test_digital_silence_agrees_with_the_reference(tmp_path, originals):
    state = originals.state(originals.small)
    path = originals.write(tmp_path / "silent.ckpt", state)
    assert compare(state, originals.small, path, np.zeros((1, 32000), np.float32)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("layers.1.blocks.1.attn.relative_position_bias_table", lambda table: table.flip(0)),
        ("layers.0.downsample.reduction.weight", lambda w: torch.cat((w[:, 24:48], w[:, :24], w[:, 48:]), 1)),
        ("bn0.running_mean", lambda mean: mean + 1),
        ("layers.3.blocks.1.norm2.weight", lambda gain: 1.01 * gain),
    ],
)
def test_the_comparison_would_see_a_mistake(name, spoil, tmp_path, originals, speech):
    """What a wrong conversion would change stays far outside the tolerance, so the tolerance is no formality."""
    state = originals.state(originals.small, "stress", seed=3)
    path = originals.write(tmp_path / "spoiled.ckpt", state | {name: spoil(state[name])})
    assert compare(state, originals.small, path, speech(32000, 32000)[None]) > 10 * TOLERANCE
