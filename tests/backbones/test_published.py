"""What is written down of the paper's backbones, beside what their networks say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mettle_cache.backbones import BackboneRequest
from mettle_cache.backbones.published import HTSAT, RESNEXT101, SWINV2_L, VIT_L16, find_checkpoint
from mettle_cache.backbones.timm_network import pretrained_cfg
from mettle_cache.errors import UsageError

FAMILIES = (SWINV2_L, VIT_L16, RESNEXT101, HTSAT)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_layers_and_parameters_are_those_that_the_network_gives(family):
    for modality in family.stages:
        request = BackboneRequest(name=family.name, modality=modality)
        assert family.layers(request) == family.builder.layers(request)
    assert family.layers(BackboneRequest(name=family.name))[0].modality == next(iter(family.stages))
    assert family.frozen_parameters() == family.builder.frozen_parameters()


@pytest.mark.parametrize("family", FAMILIES[:3], ids=lambda family: family.name)
def test_the_weights_are_where_timm_says(family):
    cfg = pretrained_cfg(family.builder.timm_name)
    assert family.weights == f"hub: {cfg['hf_hub_id']}"
    assert cfg.get("hf_hub_filename") is None


def test_another_size_is_computed():
    layers = RESNEXT101.layers(BackboneRequest(name="resnext101", size=224))
    assert [layer.tokens for layer in layers] == [3136, 784, 196, 49]


def test_a_modality_that_it_does_not_have_is_refused():
    with pytest.raises(UsageError, match="reads sound, not pictures"):
        HTSAT.layers(BackboneRequest(name="htsat", modality="visual"))


def test_the_checkpoint_is_found_in_weights_and_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METTLE_WEIGHTS", str(tmp_path / "elsewhere"))
    assert find_checkpoint() is None
    for folder in ("elsewhere", "weights"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "HTSAT_AudioSet_Saved_1.ckpt").touch()
        assert find_checkpoint() is not None
    assert find_checkpoint() == Path("weights") / "HTSAT_AudioSet_Saved_1.ckpt"
    assert HTSAT.info().weights_found == "weights/HTSAT_AudioSet_Saved_1.ckpt"


def test_telling_all_of_it_loads_no_heavy_library():
    code = (
        "import sys; from mettle_cache.backbones import layer_table, list_backbones, frozen_parameters; "
        "[(layer_table(info.name), frozen_parameters(info.name)) for info in list_backbones()[0]]; "
        "print({'torch', 'timm', 'torchvision', 'torchaudio'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
