"""Names to families."""

from __future__ import annotations

import pytest
import timm

from mettle_cache.backbones.registry import BACKBONES, find_family, list_backbones, timm_names
from mettle_cache.backbones.timm_backbone import TimmFamily
from mettle_cache.errors import UsageError
from mettle_cache.registry import BackboneRow


@pytest.fixture
def plugin():
    """A backbone that another package would register, until the end of the test."""
    names = []

    def register(name, target):
        names.append(BACKBONES.register(BackboneRow(name, target)).name)

    yield register
    for name in names:
        BACKBONES.unregister(name)


def test_the_published_backbones_are_registered():
    assert BACKBONES.names() == ["swinv2_l", "vit_l16", "resnext101", "htsat"]


def test_a_registered_name_goes_before_timms(plugin):
    plugin("test_vit", "mettle_cache.backbones.published:HTSAT")
    assert find_family("test_vit").frozen_parameters() == 31_325_143


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_package.rows:FAMILY", "No module named 'no_such_package'"),
        ("mettle_cache.layers:MODALITIES", "mettle_cache.layers:MODALITIES cannot say what it is: AttributeError"),
    ],
)
def test_a_broken_backbone_is_listed_with_its_reason(plugin, target, reason):
    plugin("birdnet", target)
    infos, broken = list_backbones()
    assert [info.name for info in infos] == ["swinv2_l", "vit_l16", "resnext101", "htsat"]
    assert list(broken) == ["birdnet"]
    assert reason in broken["birdnet"]


def test_timms_names_are_read_without_timm():
    assert timm_names() == sorted(timm.list_models())


def test_names_that_timm_has_given_up_still_work():
    assert isinstance(find_family("vit_base_patch16_224_in21k"), TimmFamily)


@pytest.mark.parametrize("name", ["test_vit", "swinv2_tiny_window8_256.ms_in1k"])
def test_any_timm_name_is_answered(name):
    family = find_family(name)
    assert isinstance(family, TimmFamily)
    assert family.timm_name == name


@pytest.mark.parametrize(
    ("name", "near"),
    [("swinv2_1", "swinv2_l"), ("htsta", "htsat"), ("swinv2_large_window12_129", "swinv2_large_window12_192")],
)
def test_an_unknown_name_lists_the_known_and_the_near(name, near):
    with pytest.raises(UsageError, match="known are swinv2_l, vit_l16, resnext101, htsat, and any timm") as caught:
        find_family(name)
    assert near in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["test_vit.no_such_tag", "qqqqqqqqqq", "hf_hub:someone/model", "local-dir:/tmp"])
def test_unknown_tags_and_foreign_schemes_are_refused(name):
    with pytest.raises(UsageError, match="unknown backbone"):
        find_family(name)
