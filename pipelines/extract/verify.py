"""Comparing a store with the media that it was made of, all of them by content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from mettle_cache.datasets import Dataset, open_dataset
from mettle_cache.datasets.protocol import HasSoundFiles
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.extract.sources import compare_sources
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.store.format.spec import samples_digest
from mettle_cache.store.writing.writer import StoreWriter


@dataclass(frozen=True, kw_only=True)
class SourcesReport:
    """The media below ``root`` beside those that a store was made of.

    Attributes
    ----------
    same
        How many of the store's clips have the very same media.
    changed
        Clip id to what is to be said of it, of clips that have others.
    missing
        Clips whose media are not there, which is fine: media may be deleted once their clips are stored.
    other_annotations
        Whether the samples are not those of the store, so that extracting from this root would need another store.
    """

    root: Path
    same: int
    changed: dict[str, str]
    missing: list[str]
    other_annotations: bool

    @property
    def ok(self) -> bool:
        """Whether nothing that is there is other than it was, and it is no folder of something else."""
        return not self.changed and not self.foreign

    @property
    def foreign(self) -> bool:
        """Whether other clips are annotated there, and no media of the store's."""
        return self.other_annotations and bool(self.missing) and not self.same and not self.changed

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "root": str(self.root), "ok": self.ok}


def verify_sources(store: Path | str, root: Path | str, progress: Progress | None = None) -> SourcesReport:
    """Read all media below ``root`` of a store's clips, and compare them with the digests that the store has of them.

    The data set and its options are those of the store, which may be unfinished. Touches no file of either.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        There is no store, or its metadata are damaged.
    UsageError, PluginError, DatasetError
        The data set is not known here, or ``root`` does not hold its annotations.
    """
    with StoreWriter.join(store) as writer:
        key, made_of = writer.metadata.record.key, writer.made_of()
        options = key.extraction.get("options")
        opened = open_dataset(key.dataset, root, cast(dict[str, str], options) if isinstance(options, dict) else {})
        dataset = _as_heard(opened, key.extraction)
        memory = SourceMemory.open(writer.metadata.record.key_digest, dataset.root)
        sources = {writer.clips[index]: source for index, source in made_of.items()}
        outcome = compare_sources(sources, dataset, memory, progress or Silent(), read_all=True)
    return SourcesReport(
        root=dataset.root,
        same=len(outcome.same),
        changed=dict(outcome.changed),
        missing=list(outcome.missing),
        other_annotations=samples_digest(dataset.samples) != key.samples.digest,
    )


def _as_heard(dataset: Dataset, extraction: Mapping[str, Any]) -> Dataset:
    """The data set with its sound files before its arrays, if the store's backbone heard sound files as they are."""
    heard = extraction.get("backbones", {}).get("audio", {}).get("preprocessing", {})
    return (
        dataset.preferring_sound_files() if "sound_files" in heard and isinstance(dataset, HasSoundFiles) else dataset
    )
