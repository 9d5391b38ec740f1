"""The backbones that made a store, from its key, and the published row of these backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mettle_cache.layers import MODALITIES
from mettle_cache.preprocessing import SHARED
from mettle_cache.tasks.protocol import PublishedRow

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """``visual`` and ``audio`` are architectures, audio ``shared`` where the visual one does both; empty if unknown.

    ``random`` names the modalities whose weights were drawn at random, ``file_sound`` says that sound files were heard
    as they are (:class:`~mettle_cache.preprocessing.Preprocessing`).
    """

    dataset: str
    visual: str
    audio: str
    random: tuple[str, ...]
    file_sound: bool = False


def store_facts(store: TokenSource) -> StoreFacts:
    """Read the facts from the fingerprints of the backbones, which extraction puts into the key.

    A backbone of another package may say less in its fingerprint than ours do.
    """
    prints = store.key["extraction"].get("backbones", {})
    names = {modality: str(fingerprint.get("architecture", "")) for modality, fingerprint in prints.items()}
    visual, audio = names.get("visual", ""), names.get("audio", "")
    return StoreFacts(
        dataset=store.dataset,
        visual=visual,
        audio=SHARED if visual and visual == audio else audio,
        random=tuple(name for name in MODALITIES if prints.get(name, {}).get("weights", {}).get("kind") == "random"),
        file_sound="sound_files" in prints.get("audio", {}).get("preprocessing", {}),
    )


def find_published(rows: tuple[PublishedRow, ...], facts: StoreFacts) -> PublishedRow | None:
    """The published row of this data set and these backbones, if there is one."""
    for row in rows:
        if (facts.dataset, facts.visual, facts.audio) == (row.dataset, *row.architectures):
            return row
    return None
