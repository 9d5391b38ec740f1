"""Frozen backbones: one file a family, a registry, and the table of every backbone's layers.

A new family is one new file that registers itself, and one line in :data:`registry.FAMILY_MODULES`.
"""

from mettle_cache.backbones.choice import BackboneChoice, parse_backbone, split_size
from mettle_cache.backbones.factory import (
    create_backbone,
    frozen_parameters,
    layer_table,
    list_backbones,
    shared_audio,
)
from mettle_cache.backbones.protocol import Backbone, BackboneInfo, BackboneRequest, Family
from mettle_cache.backbones.registry import register_backbone

__all__ = [
    "Backbone",
    "BackboneChoice",
    "BackboneInfo",
    "BackboneRequest",
    "Family",
    "create_backbone",
    "frozen_parameters",
    "layer_table",
    "list_backbones",
    "parse_backbone",
    "register_backbone",
    "shared_audio",
    "split_size",
]
