"""The backbones by name: the rows of this package and of others, and every architecture that timm has.

A row's object is a :class:`~mettle_cache.backbones.protocol.Family`, which says what it is without loading PyTorch.
"""

from __future__ import annotations

import difflib
import re
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from mettle_cache.backbones.protocol import BackboneInfo, Builder, Family
from mettle_cache.errors import PluginError, UsageError
from mettle_cache.registry import BackboneRow, Registry

_HERE = "mettle_cache.backbones.published"

BACKBONES = Registry(
    "backbone",
    "mettle_cache.backbones",
    BackboneRow,
    (
        BackboneRow("swinv2_l", f"{_HERE}:SWINV2_L"),
        BackboneRow("vit_l16", f"{_HERE}:VIT_L16"),
        BackboneRow("resnext101", f"{_HERE}:RESNEXT101"),
        BackboneRow("htsat", f"{_HERE}:HTSAT"),
    ),
)


def find_family(name: str) -> Builder:
    """What answers to a name without its ``@SIZE``: a registered family, else timm's for any model that timm knows.

    Raises
    ------
    UsageError
        Nobody knows the name; the message lists the registered names and near matches among timm's.
    PluginError
        The package that offers it is broken.
    """
    if name in BACKBONES or name in BACKBONES.broken:
        family: Family = BACKBONES.load(name)
        return family
    if _may_be_timms(name):
        from mettle_cache.backbones.timm_backbone import TimmFamily

        if TimmFamily.knows(name):
            return TimmFamily(name)
    known = BACKBONES.names()
    near = difflib.get_close_matches(name, [*known, *timm_names()], n=4, cutoff=0.6)
    raise UsageError(
        f"unknown backbone '{name}'; known are {', '.join(known)}, and any timm Swin-V2, ViT or feature-pyramid CNN",
        hint=f"did you mean {' or '.join(near)}?" if near else "run `mettle backbones` for the list",
    )


def list_backbones() -> tuple[list[BackboneInfo], dict[str, str]]:
    """The registered backbones, and those whose package is broken with the reason.

    Beside them every timm Swin-V2, ViT and feature-pyramid CNN works by its timm name.
    """
    infos: list[BackboneInfo] = []
    broken = BACKBONES.broken
    for name in BACKBONES.names():
        try:
            infos.append(BACKBONES.load(name).info())
        except PluginError as error:
            broken[name] = error.message
        except Exception as error:  # noqa: BLE001 - another package's code may fail in any way
            broken[name] = f"{BACKBONES.row(name).target} cannot say what it is: {type(error).__name__}: {error}"
    return infos, broken


def timm_names() -> list[str]:
    """Every architecture that timm has, without pretrained tags; read from its source, which is much faster than it."""
    return sorted(
        {name for text in _timm_sources() for name in re.findall(r"^@register_model\s+def (\w+)", text, re.M)}
    )


@lru_cache(maxsize=64)
def _may_be_timms(name: str) -> bool:
    """Whether timm's source has the architecture's name: what it does not have need not be asked of timm itself."""
    word = re.compile(rf"\b{re.escape(name.partition('.')[0])}\b")
    return any(word.search(text) for text in _timm_sources())


@cache
def _timm_sources() -> tuple[str, ...]:
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    return tuple(
        path.read_text(encoding="utf-8") for folder in folders or () for path in Path(folder, "models").glob("*.py")
    )
