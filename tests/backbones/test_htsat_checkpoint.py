"""The published checkpoints' form: what loads, and what must not."""

from __future__ import annotations

import pytest
import torch

from mettle_cache.backbones import create_backbone
from mettle_cache.backbones.htsat_checkpoint import read_sizes
from mettle_cache.errors import WeightsError

COUNTER = "bn0.num_batches_tracked"


def test_sizes_are_read_from_the_shapes(originals):
    for sizes in (originals.small, originals.full):
        state = {name: torch.empty(shape, device="meta") for name, shape in originals.shapes(sizes).items()}
        state["logmel_extractor.melW"] = torch.empty(513, 64)
        read = read_sizes(state)
        assert (read.width, read.depths, read.heads, read.classes) == (
            sizes.width,
            sizes.depths,
            sizes.heads,
            sizes.classes,
        )
        assert (read.window, read.patch, read.image, read.mel.n_fft, read.mel.mels) == (8, 4, 256, 1024, 64)


def test_every_tensor_goes_where_it_belongs(tmp_path, originals):
    state = originals.state()
    backbone = create_backbone("htsat", weights=originals.write(tmp_path / "x.ckpt", state))
    own = backbone.trunk.network.state_dict()
    assert torch.equal(own["swin.layers.2.downsample.reduction.weight"], state["layers.1.downsample.reduction.weight"])
    assert torch.equal(own["swin.layers.2.blocks.1.attn.qkv.weight"], state["layers.2.blocks.1.attn.qkv.weight"])
    assert torch.equal(own["logmel.filters"], state["logmel_extractor.melW"])
    assert own["bn0.num_batches_tracked"] == 1234
    assert not backbone.trunk.network.logmel.exact


@pytest.mark.parametrize("prefix", ["sed_model.", ""])
def test_the_prefix_may_be_missing(prefix, tmp_path, originals):
    state = originals.state()
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "x.pth")
    assert len(create_backbone("htsat", weights=tmp_path / "x.pth").layers) == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_halves_has_the_exact_front_end(dtype, tmp_path, originals):
    """Every entry is rounded, the counters too, as a loop over a state dict does it."""
    state = originals.state()
    halves = {key: value.to(dtype) for key, value in (state | {COUNTER: torch.tensor(1 << 20)}).items()}
    whole = create_backbone("htsat", weights=originals.write(tmp_path / "x.ckpt", state))
    half = create_backbone("htsat", weights=originals.write(tmp_path / "half.ckpt", halves), exact_dft=True)
    exact = create_backbone("htsat", weights=tmp_path / "x.ckpt", exact_dft=True)
    waveform = torch.rand(1, 32000) - 0.5
    decibels = whole.trunk.network.logmel(waveform)
    assert (half.trunk.network.logmel(waveform) - decibels).abs().max() < 1e-3
    assert (exact.trunk.network.logmel(waveform) - decibels).abs().max() < 1e-3
    name = "swin.layers.2.blocks.1.attn.qkv.weight"
    assert torch.equal(half.trunk.network.state_dict()[name], whole.trunk.network.state_dict()[name].to(dtype).float())


def test_a_checkpoint_in_halves_of_another_sample_rate_is_refused(tmp_path, originals):
    state = originals.state() | originals.front_end(48000)
    path = originals.write(tmp_path / "48k.ckpt", {key: value.half() for key, value in state.items()})
    with pytest.raises(WeightsError, match="its mel filters are not those of 32000 Hz"):
        create_backbone("htsat", weights=path)


@pytest.mark.parametrize("prefix", ["module.sed_model.", "model.", "_orig_mod."])
def test_any_wrapper_comes_off_and_is_said(prefix, tmp_path, originals):
    state = {f"{prefix}{key}": value for key, value in originals.state().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "x.ckpt")
    backbone = create_backbone("htsat", weights=tmp_path / "x.ckpt")
    assert "its 'model_state_dict'" in backbone.weights_source
    plain = create_backbone("htsat", weights=originals.write(tmp_path / "plain.ckpt", originals.state()))
    assert backbone.fingerprint() == plain.fingerprint()


def without(text):
    return lambda state: {key: value for key, value in state.items() if text not in key}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda state: state | {"logmel_extractor.melW": state["logmel_extractor.melW"].roll(5, 0)},
            "mel filters are not",
        ),
        (without("melW"), r"no front end of HTS-AT: logmel_extractor\.melW not in it"),
        (without("blocks.1.mlp.fc1.bias"), r"4 missing: swin\.layers\.0\.blocks\.1\.mlp\.fc1\.bias"),
        (without("patch_embed.proj"), r"is not of HTS-AT: no usable 'patch_embed\.proj\.weight'"),
        (lambda state: state | {"mel_conv2d.weight": torch.zeros(1)}, "1 keys that HTS-AT does not have: mel_conv2d"),
        (lambda state: {f"module.audio_branch.{k}": v for k, v in state.items()}, "no front end of HTS-AT"),
        (
            lambda state: state | {"norm.weight": torch.ones(5)},
            r"swin\.norm\.weight \(5,\) where \(192,\) is wanted",
        ),
        (
            lambda state: state | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 64, 64)},
            r"its buffer 'layers\.0\.blocks\.1\.attn_mask' is not the one",
        ),
        (
            lambda state: state | {"layers.3.blocks.0.attn.relative_position_index": torch.zeros(64, 64)},
            "relative_position_index' is not the one",
        ),
        (
            lambda state: (
                state
                | {
                    "spectrogram_extractor.stft.conv_real.weight": state["spectrogram_extractor.stft.conv_real.weight"]
                    / 2
                }
            ),
            "not of a Hann window of 1024 samples",
        ),
    ],
)
def test_another_models_checkpoint_is_refused(spoil, message, tmp_path, originals):
    path = originals.write(tmp_path / "wrong.ckpt", spoil(originals.state()))
    with pytest.raises(WeightsError, match=message) as caught:
        create_backbone("htsat", weights=path)
    assert "HTSAT_AudioSet_Saved" in (caught.value.hint or "")


def test_a_checkpoint_of_another_sample_rate_is_refused(tmp_path, originals):
    path = originals.write(tmp_path / "48k.ckpt", originals.state() | originals.front_end(48000))
    with pytest.raises(WeightsError, match="its mel filters are not those of 32000 Hz, 50 to 14000 Hz"):
        create_backbone("htsat", weights=path)
