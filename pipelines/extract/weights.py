"""Where the weights of a store's backbones lay: stores know them by their digest, this computer may know the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mettle_cache.backbones import parse_backbone
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.memory import remember_weights, remembered_weights


def remember_backbones(config: ExtractConfig, extractor: Extractor) -> None:
    """Take note of the weights files that the user named."""
    named = {"visual": config.visual, "audio": config.visual if config.shared else config.audio}
    for backbone in extractor.backbones:
        path = Path(parse_backbone(named[backbone.modality]).weights)
        digest = _weights_digest(backbone.fingerprint())
        if digest and path.is_file():
            remember_weights(digest, path)


def places_of_weights(theirs: object, ours: object) -> Iterator[str]:
    """Where weights lay that the fingerprints ``theirs`` have and ``ours`` have not, as far as it is remembered."""
    own = ours if isinstance(ours, Mapping) else {}
    for modality, fingerprint in (theirs if isinstance(theirs, Mapping) else {}).items():
        digest = _weights_digest(fingerprint)
        path = remembered_weights(digest) if digest and digest != _weights_digest(own.get(modality)) else None
        if path is not None:
            yield f"the store's {modality} weights were read from {path}"


def _weights_digest(fingerprint: object) -> str | None:
    """The digest of the weights; None where a backbone of another package does not say it."""
    weights = fingerprint.get("weights") if isinstance(fingerprint, Mapping) else None
    digest = weights.get("digest") if isinstance(weights, Mapping) else None
    return digest if isinstance(digest, str) else None
