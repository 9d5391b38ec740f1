"""Keeping each backbone's last block beside the store, for methods that replay it: the late bundles.

They need the weights, which are at hand here and nowhere else. Where there is nothing to keep, the companion says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mettle_cache.backbones import Backbone
from mettle_cache.backbones.protocol import HasLateBlock
from mettle_cache.companions import HeldCompanion
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import LateBundle, bundle_name, describe_refusal
from mettle_cache.layers import LayerSpec
from mettle_cache.store.companions import keep_companion
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.spec import FORMAT_VERSION


def keep_late_bundles(metadata: StoreMetadata, backbones: Sequence[Backbone]) -> Iterator[str]:
    """Write the late bundles that a store lacks, finished or not; yields what is to be told.

    Raises
    ------
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    if metadata.format < FORMAT_VERSION:
        return  # a store of an older format is not extended
    named = {bundle_name(backbone.modality): backbone for backbone in backbones}
    for name, bundle in late_bundles(metadata.record.key_digest, metadata.layers, backbones).items():
        if keep_companion(metadata.path, name, bundle.tensors, bundle.description) and bundle.tensors:
            backbone = named[name]
            yield f"the last block of {backbone.name} ({backbone.modality}) is kept beside the store, for method sherl"


def late_bundles(key: str, stored: Sequence[LayerSpec], backbones: Sequence[Backbone]) -> dict[str, HeldCompanion]:
    """The late bundles of a store with this key digest and these layers, by the names that they have beside it."""
    bundles: dict[str, HeldCompanion] = {}
    for backbone in backbones:
        name = bundle_name(backbone.modality)
        try:
            bundle = _bundle(backbone, stored)
        except UsageError as error:
            bundles[name] = HeldCompanion(describe_refusal(error.message, key), {})
        else:
            bundles[name] = HeldCompanion(bundle.block.describe(key), bundle.tensors)
    return bundles


def _bundle(backbone: Backbone, stored: Sequence[LayerSpec]) -> LateBundle:
    """A backbone's late bundle; raises UsageError where it has none, or the store not the tokens that enter it."""
    if not isinstance(backbone, HasLateBlock):
        raise UsageError(f"{backbone.name} offers no last block to replay")
    bundle = backbone.late_bundle()
    before = bundle.block.before.name
    if before not in {layer.name for layer in stored}:
        raise UsageError(f"the store has no {before}, whose tokens enter the last block of {backbone.name}")
    return bundle
