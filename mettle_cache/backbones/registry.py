"""Names to backbone families. A new family is one new file that registers itself, and one line in FAMILY_MODULES."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from mettle_cache.backbones.protocol import Family
from mettle_cache.errors import UsageError

FAMILY_MODULES = (
    "mettle_cache.backbones.timm_family",
    "mettle_cache.backbones.htsat",
)

F = TypeVar("F", bound=Family)

_FAMILIES: dict[str, Family] = {}


def register_backbone(name: str) -> Callable[[F], F]:
    """Register a family under a name.

    Raises
    ------
    ValueError
        The name is taken: two families may never answer to one name.
    """

    def add(family: F) -> F:
        if name in _FAMILIES:
            raise ValueError(f"backbone '{name}' is registered twice: {_FAMILIES[name]!r} and {family!r}")
        _FAMILIES[name] = family
        return family

    return add


def registered() -> dict[str, Family]:
    """Every registered family by name, in the order of registration."""
    for module in FAMILY_MODULES:
        import_module(module)
    return dict(_FAMILIES)


def find_family(name: str) -> Family:
    """The family that answers to a name: a registered one, else timm's for any model that timm knows.

    Raises
    ------
    UsageError
        Nobody knows the name; the message lists the registered names and near matches among timm's.
    """
    families = registered()
    if name in families:
        return families[name]
    from mettle_cache.backbones.timm_family import TimmFamily, timm_names

    if TimmFamily.knows(name):
        return TimmFamily(name)
    near = difflib.get_close_matches(name, [*families, *timm_names()], n=4, cutoff=0.6)
    raise UsageError(
        f"unknown backbone '{name}'; known are {', '.join(families)}, and any timm Swin-V2, ViT or feature-pyramid CNN",
        hint=f"did you mean {' or '.join(near)}?" if near else "run `mettle backbones` for the list",
    )
