"""Opening the tokens of a run that had no store, as they were computed for it, or refusing what would be others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mettle_cache.devices import available_cores, choose_device, prepare_process
from mettle_cache.errors import RunError, WeightsError
from mettle_cache.layers import MODALITIES
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import Extractor, extraction_key, open_config_dataset, store_spec
from mettle_cache.pipelines.extract.memory import remember_weights
from mettle_cache.pipelines.online.beginning import begin_writing
from mettle_cache.pipelines.online.config import splits_of
from mettle_cache.pipelines.online.filling_tokens import FILL
from mettle_cache.pipelines.online.opening import fill_store
from mettle_cache.pipelines.online.tokens import OnlineTokens
from mettle_cache.pipelines.predict.backbones import build_backbones, origin_config
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.kept_arrays import kept_static
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.run_tokens import TokenOptions
from mettle_cache.pipelines.train.token_origin import TokenOrigin, kept_origin
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.digests import canonical_json
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.format.spec import key_differences

# of a key what moves the last bits of tokens, and nothing else
_ROUNDING = ("compute.device", "compute.segments_a_pass")
_VERSIONS = ".versions."


def reopen(run: Path, config: RunConfig, options: TokenOptions, progress: Progress) -> OnlineTokens:
    """The tokens that a run was trained on, computed again.

    Raises
    ------
    RunError
        The data set is not where it was, or another one; or this version computes other tokens.
    WeightsError, UsageError
        The weights are not on this machine, or those that are named are others.
    """
    prepare_process()
    folder, computed = RunFolder(run), config.store.computed
    origin = kept_origin(folder)
    if computed is None or origin is None:
        raise RunError(f"{run}: it keeps nothing of how its tokens were computed", hint="train it again")
    extraction = _extraction(run, origin, computed, options)
    extractor = _extractor(folder, origin, extraction, computed, options, progress)
    metadata = _metadata(run, config, origin, extraction, extractor, progress)
    fill = computed.get(FILL) if options.resuming else None
    facts: dict[str, Any] = {
        "extractor": extractor,
        "metadata": metadata,
        "recipe": _recipe(computed, extractor.dataset.root),
        "failed": dict(computed["failed"]),
        # a clip of a split that training did not touch may be found to fail now, as an extraction would have found it
        "skip_missing": bool(computed["skip_missing"]) or not options.resuming,
        "progress": progress,
    }
    if fill is None:
        progress.note(f"the run has no store: its tokens are computed again from {extractor.dataset.root}")
        return OnlineTokens(**facts)
    extraction = replace(extraction, out=Path(fill), skip_missing=bool(computed["skip_missing"]))
    writer = begin_writing(extractor, extraction, Path(fill), progress)
    return fill_store(writer, extraction, {**facts, "metadata": writer.metadata}, splits_of(config.select_on))


def _recipe(computed: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """How tokens are computed, from ``root`` now."""
    words = list(computed["options"])
    if "--root" in words:
        words[words.index("--root") + 1] = str(root)
    return {**{key: computed[key] for key in computed if key != "failed"}, "root": str(root), "options": words}


def _extraction(run: Path, origin: TokenOrigin, computed: Mapping[str, Any], options: TokenOptions) -> ExtractConfig:
    root = options.root or Path(computed["root"])
    if not root.is_dir():
        raise RunError(
            f"{run}: it was trained without a store, and its media are not at {root} any more",
            hint="name their new place: --root FOLDER; or a store with its tokens, if there is one",
        )
    each = int(computed["clips_per_shard"])
    return replace(origin_config(origin), root=root.resolve(), clips_per_shard=each, device=options.device)


def _extractor(
    folder: RunFolder,
    origin: TokenOrigin,
    extraction: ExtractConfig,
    computed: Mapping[str, Any],
    options: TokenOptions,
    progress: Progress,
) -> Extractor:
    device = choose_device(options.device)
    modalities = [modality for modality in MODALITIES if modality in origin.extraction.get("backbones", {})]
    _recall_weights(origin, computed)
    try:
        built = build_backbones(origin, modalities, device, named=options.weights, note=progress.note)
    except WeightsError as error:
        if not options.resuming:  # the commands that only read a run take no weights
            error.hint = "put the file into weights/, or name a store with the tokens that the run was trained on"
        raise
    for note in built.notes:
        progress.note(note)
    return Extractor(
        dataset=open_config_dataset(extraction),
        backbones=built.backbones,
        layers=origin.layers,
        codec=get_codec(origin.codec),
        device=device,
        precision=extraction.precision,
        cores=available_cores(),
        static=kept_static(folder),
        budget=extraction.memory_budget,
    )


def _recall_weights(origin: TokenOrigin, computed: Mapping[str, Any]) -> None:
    """Let the search for weights begin with the files that the run was trained with, which it checks as any other."""
    for modality, path in computed["weights"].items():
        weights = origin.extraction["backbones"].get(modality, {}).get("weights", {})
        if Path(path).is_file() and "digest" in weights:
            remember_weights(weights["digest"], Path(path))


def _metadata(
    run: Path,
    config: RunConfig,
    origin: TokenOrigin,
    extraction: ExtractConfig,
    extractor: Extractor,
    progress: Progress,
) -> StoreMetadata:
    """The metadata that the run's store would have; differences that only round otherwise are noted."""
    spec = store_spec(extractor, extraction)
    lines = list(_differences(origin.extraction, extraction_key(extractor, extraction)))
    other = [line for line in lines if not _only_rounds(line)]
    metadata = StoreMetadata.of_spec(Path(config.store.path), replace(spec, key=origin.extraction))
    if metadata.record.key_digest != config.store.key_digest:
        other.append("the annotations, and so the samples, or the codec's static arrays are others")
    if other:
        raise RunError(
            f"{run}: {extractor.dataset.root} does not give the tokens that it was trained on any more "
            f"(then -> now): {'; '.join(other[:5])}",
            hint="name the data set that it was trained on: --root FOLDER",
        )
    for line in lines:
        progress.note(f"tokens differ by rounding from those that were trained on: {line}")
    return metadata


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return key_differences(then, json.loads(canonical_json(now)))


def _only_rounds(line: str) -> bool:
    name = line.partition(": ")[0]
    return name in _ROUNDING or _VERSIONS in name
