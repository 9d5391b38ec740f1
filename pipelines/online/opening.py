"""Opening a data set and its backbones as a source of tokens: looked at and checked as an extraction does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mettle_cache.backbones import parse_backbone
from mettle_cache.errors import StoreError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.extract.config import ExtractConfig, default_store_path
from mettle_cache.pipelines.extract.extractor import (
    Extractor,
    build_extractor,
    clips_in_a_shard,
    open_config_dataset,
    store_spec,
)
from mettle_cache.pipelines.extract.limit import clips_beyond, remaining_samples
from mettle_cache.pipelines.extract.pilot import with_static_arrays
from mettle_cache.pipelines.extract.run import find_unreadable, store_notes
from mettle_cache.pipelines.extract.weights import remember_backbones
from mettle_cache.pipelines.online.beginning import begin_filling, begin_writing, refuse_finished
from mettle_cache.pipelines.online.filling_tokens import FillingTokens
from mettle_cache.pipelines.online.tokens import OnlineTokens
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import count
from mettle_cache.store.format.metadata import StoreMetadata, load_metadata, read_ready
from mettle_cache.store.writing.writer import StoreWriter


def open_online(
    config: ExtractConfig,
    progress: Progress,
    *,
    fill: Sequence[str] = (),
    failed_before: Mapping[str, str] = MappingProxyType({}),
) -> OnlineTokens:
    """The tokens of a data set, computed whenever they are read; those of ``failed_before`` are left out.

    Media are looked at first, as an extraction looks at them; a codec's pilot runs where it has one. Tokens of the
    splits ``fill`` are written to the store of the configuration as they are computed, and then read from it.

    Raises
    ------
    UsageError, PluginError, WeightsError, DatasetError
        As :func:`mettle_cache.pipelines.extract.run.extract`; or the store is finished.
    StoreError
        With ``fill``, as :func:`mettle_cache.pipelines.online.beginning.begin_filling`.
    """
    out = config.out or default_store_path(config)
    if fill:
        refuse_finished(out)
    dataset = open_config_dataset(config)
    extractor = build_extractor(config, dataset)
    failed = {**failed_before, **left_out(extractor, config, progress)}
    beyond = clips_beyond(dataset, config.limit)
    for note in store_notes(extractor, failed):
        progress.note(note)
    if beyond:
        remain = remaining_samples(dataset.samples, beyond)
        progress.note(f"--limit {config.limit} takes {len(dataset.clips) - len(beyond)} clips; samples: {remain}")
    with with_static_arrays(extractor, config, out, progress) as extractor:
        writer = begin_writing(extractor, config, out, progress) if fill else None
        metadata = writer.metadata if writer else StoreMetadata.of_spec(out, store_spec(extractor, config))
    if holds_tokens(metadata):
        read = command_line("mettle train --from-cache", out)
        progress.note(f"store {out} holds these very tokens; reading them is likely to be faster: {read}")
    remember_backbones(config, extractor)
    facts: dict[str, Any] = {
        "extractor": extractor,
        "metadata": metadata,
        "recipe": how_computed(config, extractor),
        "failed": {**failed, **beyond},
        "skip_missing": config.skip_missing,
        "progress": progress,
    }
    return fill_store(writer, config, facts, fill) if writer else OnlineTokens(**facts)


def holds_tokens(metadata: StoreMetadata) -> bool:
    """Whether the store of these metadata lies at its path, and is finished."""
    try:
        there = load_metadata(metadata.path)
        return there.record.key_digest == metadata.record.key_digest and read_ready(there) is not None
    except StoreError:
        return False  # there is none, or none to be read


def fill_store(
    writer: StoreWriter, config: ExtractConfig, facts: Mapping[str, Any], splits: Sequence[str]
) -> FillingTokens:
    """Tokens with the attributes ``facts`` of :class:`OnlineTokens`, which a writer writes, too."""
    filling = begin_filling(
        writer,
        facts["extractor"],
        config,
        failed=facts["failed"],
        splits=splits,
        progress=facts["progress"],
    )
    return FillingTokens(**facts, filling=filling)


def left_out(extractor: Extractor, config: ExtractConfig, progress: Progress) -> dict[str, str]:
    """Clips whose media cannot be read, with the reasons, where they may be left out. Raises DatasetError."""
    dataset, beyond = extractor.dataset, clips_beyond(extractor.dataset, config.limit)
    wanted = [clip.id for clip in dataset.clips if clip.id not in beyond]
    for note in (*dataset.notes, f"looking at the media of {count(len(wanted), 'clip')} in {dataset.root}"):
        progress.note(note)
    return find_unreadable(dataset, config, wanted)


def how_computed(config: ExtractConfig, extractor: Extractor) -> dict[str, Any]:
    """What a run keeps to compute its tokens again, beside what its store's key and command say."""
    named = {"visual": config.visual, **({} if config.shared else {"audio": config.audio})}
    files = {modality: Path(parse_backbone(text).weights) for modality, text in named.items()}
    return {
        "root": str(extractor.dataset.root.resolve()),
        "weights": {modality: str(path.resolve()) for modality, path in files.items() if path.is_file()},
        "clips_per_shard": clips_in_a_shard(extractor, config),
        "skip_missing": config.skip_missing,
        "options": config.words(),
    }
