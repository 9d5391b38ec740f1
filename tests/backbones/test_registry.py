"""Names to families."""

from __future__ import annotations

import pytest

from mettle_cache.backbones.registry import find_family, register_backbone, registered
from mettle_cache.backbones.timm_family import TimmFamily
from mettle_cache.errors import UsageError


def test_the_published_backbones_are_registered():
    assert list(registered()) == ["swinv2_l", "vit_l16", "resnext101", "htsat"]


def test_a_name_registers_once():
    registered()
    with pytest.raises(ValueError, match="backbone 'htsat' is registered twice"):
        register_backbone("htsat")(TimmFamily("test_vit"))


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
