"""Making backbones, asking about them without weights, and what users may write after --visual and --audio."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import PurePosixPath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.backbones import (
    Backbone,
    create_backbone,
    frozen_parameters,
    layer_table,
    list_backbones,
    shared_audio,
)
from mettle_cache.backbones.factory import BackboneChoice, parse_backbone, split_size
from mettle_cache.errors import UsageError

# docs/protocols/avel.md, "Token shapes": tokens x width by stage, and blocks by stage
SWIN = [(2304, 192, 2), (576, 384, 2), (144, 768, 18), (36, 1536, 2)]
HTSAT = [(4096, 96, 2), (1024, 192, 2), (256, 384, 6), (64, 768, 2)]
RESNEXT = [(2304, 256, 1), (576, 512, 1), (144, 1024, 1), (36, 2048, 1)]
RESNEXT_224 = [(3136, 256, 1), (784, 512, 1), (196, 1024, 1), (49, 2048, 1)]


@pytest.mark.parametrize(
    ("name", "modality", "stages"),
    [
        ("swinv2_l", None, SWIN),
        ("swinv2_l", "audio", SWIN),
        ("htsat", None, HTSAT),
        ("vit_l16", "visual", [(197, 1024, 24)]),
        ("vit_l16", "audio", [(49, 1024, 24)]),
        ("resnext101", "visual", RESNEXT),
        ("resnext101@224", "visual", RESNEXT_224),
        ("vit_small_patch14_dinov2@224", "visual", [(257, 384, 12)]),
        ("vit_small_patch14_reg4_dinov2@224", "visual", [(261, 384, 12)]),
        ("vit_small_patch14_dinov2", "visual", [(1370, 384, 12)]),
        ("vit_small_patch16_dinov3", "visual", [(261, 384, 12)]),
        ("swinv2_cr_tiny_224", "visual", [(3136, 96, 2), (784, 192, 2), (196, 384, 6), (49, 768, 2)]),
    ],
)
def test_the_layer_table_is_the_published_one(name, modality, stages):
    layers = layer_table(name, modality)
    expected = [
        (stage, block, tokens, width)
        for stage, (tokens, width, blocks) in enumerate(stages, 1)
        for block in range(1, blocks + 1)
    ]
    assert [(layer.stage, layer.block, layer.tokens, layer.width) for layer in layers] == expected
    assert {layer.modality for layer in layers} == {modality or ("audio" if name == "htsat" else "visual")}


def test_the_grid_leaves_class_and_register_tokens_out():
    assert layer_table("vit_small_patch14_reg4_dinov2@224")[0].grid == (16, 16)
    assert layer_table("vit_l16", "audio")[0].grid == (6, 8)
    assert layer_table("swinv2_l")[-1].grid == (6, 6)


@pytest.mark.parametrize(
    ("name", "count"),
    [("swinv2_l", 228_772_549), ("vit_l16", 325_690_707), ("resnext101", 86_742_336), ("htsat", 31_325_143)],
)
def test_frozen_parameters_are_counted_as_the_papers_do(name, count):
    assert frozen_parameters(name) == count


def test_the_table_needs_no_weights_and_little_time():
    started = time.monotonic()
    layer_table("swinv2_l")
    assert time.monotonic() - started < 10  # a second when the machine is free; the weights alone take longer to draw


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, mettle_cache.backbones; sys.exit(bool({'torch', 'timm', 'torchaudio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_names_every_published_backbone_with_its_weights():
    infos = {info.name: info for info in list_backbones()[0]}
    assert list(infos) == ["swinv2_l", "vit_l16", "resnext101", "htsat"]
    assert infos["htsat"].modalities == ("audio",)
    assert "HTSAT_AudioSet_Saved" in infos["htsat"].weights
    assert infos["swinv2_l"].weights == "hub: timm/swinv2_large_window12_192.ms_in22k"
    assert all(info.layers and info.frozen_parameters and info.summary for info in infos.values())
    assert infos["swinv2_l"].to_json()["frozen_parameters"] == 228_772_549


def test_what_comes_out_is_a_backbone():
    backbone = create_backbone("test_vit", weights="random")
    assert isinstance(backbone, Backbone)
    assert (backbone.name, backbone.modality, backbone.sample_rate) == ("test_vit", "visual", None)
    assert backbone.weights_source == "random, seed 0"
    tokens = backbone.forward_tokens(torch.zeros(2, *backbone.segment_shape))
    assert {name: token.shape for name, token in tokens.items()} == {
        layer.name: (2, layer.tokens, layer.width) for layer in backbone.layers
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_vit", {"modality": "smell"}, "modality 'smell' is none of visual, audio"),
        ("test_vit", {"precision": "int3"}, "precision 'int3' is none of float32, bfloat16, float16"),
        ("test_vit", {"seed": -1}, "seed -1 is not from 0 to"),
        ("test_vit", {"seed": 2**63}, "is not from 0 to 9223372036854775807"),
        ("test_vit", {"exact_dft": True}, "exact_dft is for htsat"),
        ("htsat", {"antialias": True}, "antialias is for pictures"),
        ("htsat", {"modality": "visual"}, "reads sound, not pictures"),
        ("htsat@224", {}, "'htsat' has no picture size"),
        ("test_vit@100", {}, "no multiple of its patch of 16"),
        ("resnet18@abc", {}, "whole number of pixels"),
        ("hrnet_w18_small", {}, "is no Swin, ViT or feature-pyramid CNN"),
    ],
)
def test_requests_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        create_backbone(name, weights="random", **options)


def test_only_a_visual_backbone_can_be_shared():
    with pytest.raises(UsageError, match="'htsat' cannot be shared"):
        shared_audio(create_backbone("htsat", weights="random"))


def test_a_batch_of_another_shape_or_dtype_is_refused():
    backbone = create_backbone("test_vit", weights="random")
    for batch in (
        torch.zeros(1, 3, 64, 64),
        torch.zeros(1, 3, 160, 160, dtype=torch.uint8),
        torch.zeros(0, 3, 160, 160),
    ):
        with pytest.raises(UsageError, match=r"'test_vit' takes float32 \[B, 3, 160, 160\], not"):
            backbone.forward_tokens(batch)


NAMES = st.from_regex(r"[a-z][a-z0-9_.]{0,30}", fullmatch=True)
# paths as they are written again: 0//0 is read as 0/0
FILES = (
    st.from_regex(r"[A-Za-z0-9_./ =@-]{0,30}[A-Za-z0-9]", fullmatch=True)
    .filter(lambda text: text == text.strip())
    .map(lambda text: str(PurePosixPath(text)))
)


@pytest.mark.parametrize(
    ("text", "name", "weights"),
    [
        ("swinv2_l", "swinv2_l", "pretrained"),
        ("swinv2_l=random", "swinv2_l", "random"),
        (" htsat = weights/HTSAT.ckpt ", "htsat", "weights/HTSAT.ckpt"),
        ("vit_small_patch14_dinov2@224=a=b.safetensors", "vit_small_patch14_dinov2@224", "a=b.safetensors"),
    ],
)
def test_names_and_weights_are_read(text, name, weights):
    assert parse_backbone(text) == BackboneChoice(name, weights)


@given(NAMES, st.none() | st.integers(16, 4096), st.none() | FILES)
def test_reading_what_was_written_gives_the_same(name, size, weights):
    choice = BackboneChoice(name if size is None else f"{name}@{size}", weights or "pretrained")
    assert parse_backbone(str(choice)) == choice
    assert split_size(choice.name) == (name, size)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        choice = parse_backbone(text)
    except UsageError:
        return
    assert choice.name
    assert choice.weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no name"),
        ("=file.pth", "has no name"),
        ("swinv2_l=", "names no weights after '='"),
        ("swinv2_l@", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@15", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@4097", "whole number of pixels from 16 to 4096"),
        ("swinv2_l@" + "9" * 5000, "whole number of pixels from 16 to 4096"),
        ("swinv2_l@٢٢٤", "whole number of pixels from 16 to 4096"),
        ("@224", "whole number of pixels from 16 to 4096"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(UsageError, match=message):
        parse_backbone(text)
