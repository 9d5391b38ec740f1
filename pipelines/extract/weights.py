"""Where the weights of a store's backbones lay: stores know them by their digest, this computer may know the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mettle_cache.backbones import parse_backbone
from mettle_cache.errors import StoreError, StoreKeyError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.memory import remember_weights, remembered_weights
from mettle_cache.preprocessing import SHARED
from mettle_cache.store.format.metadata import load_metadata


def remember_backbones(config: ExtractConfig, extractor: Extractor) -> None:
    """Take note of the weights files that the user named."""
    named = {"visual": config.visual, "audio": config.visual if config.audio == SHARED else config.audio}
    for backbone in extractor.backbones:
        path = Path(parse_backbone(named[backbone.modality]).weights)
        digest = _weights_digest(backbone.fingerprint())
        if digest and path.is_file():
            remember_weights(digest, path)


@contextmanager
def other_weights_named(store: Path, extractor: Extractor) -> Iterator[None]:
    """Let the error for a store of another key say where its weights lay, if these differ and that is remembered."""
    try:
        yield
    except StoreKeyError as error:
        places = list(_places(store, extractor))
        if places:
            error.hint = f"{error.hint}; {' and '.join(places)}"
        raise


def _places(store: Path, extractor: Extractor) -> Iterator[str]:
    try:
        theirs = load_metadata(store).record.key.extraction.get("backbones")
    except StoreError:
        return
    ours = {backbone.modality: _weights_digest(backbone.fingerprint()) for backbone in extractor.backbones}
    for modality, fingerprint in (theirs if isinstance(theirs, dict) else {}).items():
        digest = _weights_digest(fingerprint)
        path = remembered_weights(digest) if digest and digest != ours.get(modality) else None
        if path is not None:
            yield f"the store's {modality} weights were read from {path}"


def _weights_digest(fingerprint: object) -> str | None:
    """The digest of the weights; None where a backbone of another package does not say it."""
    weights = fingerprint.get("weights") if isinstance(fingerprint, Mapping) else None
    digest = weights.get("digest") if isinstance(weights, Mapping) else None
    return digest if isinstance(digest, str) else None
