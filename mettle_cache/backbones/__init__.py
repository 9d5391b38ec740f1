"""Frozen backbones: one file a family, a registry, and the table of every backbone's layers.

A new family is a file and a row in :mod:`~mettle_cache.backbones.registry`, or a package with an entry point.
"""

from mettle_cache.backbones.factory import (
    BackboneChoice,
    create_backbone,
    frozen_parameters,
    layer_table,
    parse_backbone,
    shared_audio,
    split_size,
)
from mettle_cache.backbones.protocol import Backbone, BackboneInfo, BackboneRequest, Family
from mettle_cache.backbones.registry import BACKBONES, list_backbones

__all__ = [
    "BACKBONES",
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
    "shared_audio",
    "split_size",
]
