"""What a store is called by: the key of everything that changes its bytes, and where it came from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from mettle_cache.backbones import parse_backbone
from mettle_cache.datasets import Dataset
from mettle_cache.pipelines.extract.config import DEFAULT_CODEC, ExtractConfig
from mettle_cache.pipelines.extract.extractor import Rig
from mettle_cache.store.format.spec import StoreSpec


def store_spec(rig: Rig, config: ExtractConfig) -> StoreSpec:
    """The store that this rig fills, whoever computes which clip of it."""
    return StoreSpec(
        dataset=rig.dataset.name,
        segments=rig.dataset.segments,
        layers=rig.layers,
        codec=rig.codec.name,
        clips=tuple(clip.id for clip in rig.dataset.clips),
        samples=rig.dataset.samples,
        vocabulary=rig.dataset.vocabulary,
        key=extraction_key(rig, config),
        provenance=provenance(rig.dataset, config),
    )


def extraction_key(rig: Rig, config: ExtractConfig) -> dict[str, object]:
    """What changes bytes beside the data set's annotations, the layers and the codec, which the store adds itself."""
    options = config.dataset_options
    return {
        **({"options": options} if options else {}),
        "backbones": {backbone.modality: backbone.fingerprint() for backbone in rig.backbones},
        "decode": rig.dataset.decode_policy,
        "compute": {
            "device": rig.device.type,
            "precision": rig.precision,
            "segments_a_pass": rig.clips_a_batch * rig.dataset.segments,
        },
    }


def provenance(dataset: Dataset, config: ExtractConfig) -> dict[str, object]:
    """For people: the command that makes this store anew; the same on every machine and for every part."""
    words = ["mettle", "extract", "--dataset", config.dataset]
    words += ["--visual", _named(config.visual), "--audio", _named(config.audio)]
    if config.codec != DEFAULT_CODEC:
        words += ["--codec", config.codec]
    if config.layers:
        words += ["--layers", config.layers]
    for option in config.chosen_options:
        words += ["--option", option]
    if config.seed:
        words += ["--seed", str(config.seed)]
    if config.precision != "float32":
        words += ["--precision", config.precision]
    return {"command": " ".join(words), "root": dataset.root.resolve().name, "mettle-cache": version("mettle-cache")}


def _named(text: str) -> str:
    """A backbone as the user wrote it, but a weights file by its name alone: folders differ between machines."""
    choice = parse_backbone(text)
    return f"{choice.name}={Path(choice.weights).name}" if "=" in text else choice.name
