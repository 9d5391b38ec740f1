"""A data set and its frozen backbones, set up on one device: clips in, codes of the chosen layers out.

Also the specification of the store that they fill: the key of everything that changes its bytes, and its provenance.

A clip's bytes must depend on the clip alone: not on the clips around it, the number of cores, or the process that
computes it. So all batches have one shape, and a clip's index fixes its place in the batch. On a CPU every forward pass
runs on one thread, several passes at once: oneDNN's convolutions round differently with the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import cast

import psutil
import torch
from torch import Tensor

from mettle_cache.backbones import Backbone, create_backbone, parse_backbone, shared_audio
from mettle_cache.backbones.protocol import HearsFiles
from mettle_cache.datasets import Clip, Dataset, open_dataset
from mettle_cache.datasets.boundary import clip_errors
from mettle_cache.datasets.media.budget import MemoryBudget
from mettle_cache.datasets.protocol import HasSoundFiles
from mettle_cache.devices import available_cores, choose_device
from mettle_cache.errors import MediaError, UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.encoding import Codes, encode_group
from mettle_cache.pipelines.extract.sources import Look, watch
from mettle_cache.store.format.codecs import DEFAULT_CODEC, NO_STATIC, Codec, StaticArrays, get_codec
from mettle_cache.store.format.layout import default_clips_per_shard
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.device_copy import to_device

SEGMENTS_A_BATCH_ON_GPU = 40
# one pass computes while the other's codes travel to the host
PASSES_AT_ONCE_ON_GPU = 2


@dataclass(frozen=True)
class PreparedClip:
    """A clip's input to each backbone, ``[T, *segment_shape]`` on the CPU, its files' digest, and how they look."""

    index: int
    inputs: tuple[Tensor, ...]
    source: str
    look: Look | None = None


@dataclass(frozen=True, eq=False)
class Extractor:
    """Everything that turns clip indexes into codes; safe to use from several threads.

    ``cores`` is how many of this machine's may be used; ``static`` holds the codec's static arrays, where it has any;
    ``budget`` bounds the memory in which clips are decoded; ``codes_on`` is the device that codes end on.
    """

    dataset: Dataset
    backbones: tuple[Backbone, ...]
    layers: tuple[LayerSpec, ...]
    codec: Codec
    device: torch.device
    precision: str
    cores: int
    static: StaticArrays = field(default_factory=lambda: NO_STATIC)
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    codes_on: str = "cpu"

    @property
    def clips_a_batch(self) -> int:
        """Clips that share one forward pass."""
        return 1 if self.device.type == "cpu" else clips_a_batch_on_gpu(self.dataset.segments)

    @property
    def checks_later(self) -> bool:
        """Whether the ranges of a group's tokens are judged when its codes leave the device, and not layer by layer."""
        return self.device.type != "cpu"

    @property
    def frames_a_pass(self) -> int:
        """Segments that share one forward pass."""
        return self.clips_a_batch * self.dataset.segments

    @property
    def passes_at_once(self) -> int:
        """How many forward passes run at the same time: one a core, or fewer where memory cannot hold their tokens."""
        if self.device.type != "cpu":
            return PASSES_AT_ONCE_ON_GPU
        tokens = sum(layer.tokens * layer.width for backbone in self.backbones for layer in backbone.layers)
        # a pass of Swin-V2-L or HTS-AT was measured to hold 3.5 times its float tokens
        needed = 4 * 4 * self.dataset.segments * tokens
        fitting = int(psutil.virtual_memory().available) // 2 // needed
        return max(1, min(self.cores, fitting))

    @property
    def decoders(self) -> int:
        """Threads that decode: on a CPU one more than passes, which take the cores; beside a GPU the cores are free."""
        return 1 + (self.passes_at_once if self.device.type == "cpu" else self.cores)

    def groups(self, indexes: Sequence[int]) -> list[list[int]]:
        """The indexes by the forward pass that they belong to."""
        groups: dict[int, list[int]] = {}
        for index in indexes:
            groups.setdefault(index // self.clips_a_batch, []).append(index)
        return list(groups.values())

    def prepare(self, index: int) -> PreparedClip:
        """Decode and preprocess one clip.

        Raises
        ------
        MediaError
            Whatever else goes wrong with it, also that its files change meanwhile.
        MachineError, DatasetError
            The machine is at an end, or the data set's folder is gone.
        """
        clip, root = self.dataset.clips[index], self.dataset.root
        with self.budget.clip(), clip_errors(clip.frames, root), watch(self.dataset, clip) as look:
            return PreparedClip(index, self.read(index), self.dataset.source_digest(clip), look)

    def read(self, index: int) -> tuple[Tensor, ...]:
        """One clip's input to each backbone, ``[T, *segment_shape]``. Raises as :meth:`prepare`."""
        clip, inputs = self.dataset.clips[index], []
        for backbone in self.backbones:
            with clip_errors(clip.frames if backbone.sample_rate is None else clip.audio, self.dataset.root):
                inputs.append(self._read(backbone, index))
        return tuple(inputs)

    def encode(self, clips: Sequence[PreparedClip]) -> dict[int, Codes]:
        """Tokens of one group's clips: clip index to layer name to codes ``[T, N, *]`` on :attr:`codes_on`."""
        tokens = (pair for number in range(len(self.backbones)) for pair in self.tokens(number, clips))
        with torch.inference_mode():
            return encode_group(
                tokens,
                self.codec,
                self.layers,
                self.static,
                checks_later=self.checks_later,
                codes_on=self.codes_on,
            )

    def frame_tokens(self, frames: Mapping[int, Sequence[Tensor]]) -> list[dict[str, Tensor]]:
        """Tokens ``[N, D]`` by layer of segments of any clips, before the codec, in the order of ``frames``.

        By its place in the pass (from 0, below :attr:`frames_a_pass`) each segment is given as an input to each
        backbone. Its tokens depend on the segment and its place alone.
        """
        tokens: dict[int, dict[str, Tensor]] = {place: {} for place in frames}
        with torch.inference_mode():
            for number, backbone in enumerate(self.backbones):
                batch = torch.zeros(self.frames_a_pass, *backbone.segment_shape)
                for place, inputs in frames.items():
                    batch[place] = inputs[number]
                layers = self._pass(number, batch)
                for place, of_frame in tokens.items():
                    of_frame |= {name: x[place] for name, x in layers.items()}
        return list(tokens.values())

    def tokens(self, number: int, clips: Sequence[PreparedClip]) -> list[tuple[int, dict[str, Tensor]]]:
        """One group through one backbone, in inference mode: each clip's index and its tokens ``[T, N, D]`` of the
        layers that are stored, on the device."""
        backbone, segments, size = self.backbones[number], self.dataset.segments, self.clips_a_batch
        batch = torch.zeros(size, segments, *backbone.segment_shape)
        for clip in clips:
            batch[clip.index % size] = clip.inputs[number]
        tokens = self._pass(number, batch.flatten(0, 1))
        starts = {clip.index: clip.index % size * segments for clip in clips}
        return [
            (index, {name: x[first : first + segments] for name, x in tokens.items()})
            for index, first in starts.items()
        ]

    def _pass(self, number: int, batch: Tensor) -> dict[str, Tensor]:
        """The layers that are stored of one backbone, of a whole batch of segments."""
        stored = {layer.name for layer in self.layers}
        tokens = self.backbones[number].forward_tokens(to_device(batch, self.device))
        return {name: x for name, x in tokens.items() if name in stored}

    def describe(self, error: MediaError) -> str:
        """The reason of a failure for the store, without the data set's folder, which must not change bytes."""
        return error.message.replace(f"{self.dataset.root}{os.sep}", "")

    def _read(self, backbone: Backbone, index: int) -> Tensor:
        clip = self.dataset.clips[index]
        if backbone.sample_rate is None:
            return backbone.preprocess(self.dataset.load_frames(clip), self.dataset.segments)
        heard = self._hear(backbone, clip, backbone.sample_rate)
        # where its window lies depends on the backbone and on the whole recording
        return heard if clip.segment is None else heard[clip.segment : clip.segment + 1]

    def _hear(self, backbone: Backbone, clip: Clip, sample_rate: int) -> Tensor:
        segments, preprocess = self.dataset.media_segments, cast(Callable[..., Tensor], backbone.preprocess)
        if isinstance(backbone, HearsFiles) and backbone.hears_files and isinstance(self.dataset, HasSoundFiles):
            return preprocess(self.dataset.load_recording(clip, sample_rate), segments)
        return preprocess(self.dataset.load_waveform(clip, sample_rate), segments)


def clips_a_batch_on_gpu(segments: int) -> int:
    """Clips of that many segments that share one forward pass on a GPU."""
    return max(1, SEGMENTS_A_BATCH_ON_GPU // segments)


def build_extractor(
    config: ExtractConfig, dataset: Dataset, *, device: torch.device | None = None, cores: int | None = None
) -> Extractor:
    """Load the backbones that the configuration names and choose their layers.

    ``device`` and ``cores`` replace the configuration's device and all of this machine's cores.

    Raises
    ------
    UsageError
        An unknown backbone, codec, layer or device.
    WeightsError
        Weights that are missing or damaged.
    """
    codec = get_codec(config.codec_choice.name)
    device = device or choose_device(config.device)
    visual = configured_backbone(config, "visual")
    audio = shared_audio(visual) if config.shared else configured_backbone(config, "audio")
    backbones = (visual.to(device), audio.to(device))
    chosen = select_layers([layer for backbone in backbones for layer in backbone.layers], config.layer_selection)
    layers = cells_for(codec, config.dataset, chosen)
    read = {layer.modality for layer in layers}
    return Extractor(
        dataset=dataset,
        # a backbone that no chosen layer comes from need not run
        backbones=tuple(backbone for backbone in backbones if backbone.modality in read),
        layers=layers,
        codec=codec,
        device=device,
        precision=config.precision,
        cores=cores or available_cores(),
        budget=config.memory_budget,
    )


def open_config_dataset(config: ExtractConfig) -> Dataset:
    """The data set of a configuration. Raises UsageError and DatasetError."""
    dataset = open_dataset(config.dataset, config.root, config.dataset_options)
    if config.preprocessing.file_sound and isinstance(dataset, HasSoundFiles):
        return dataset.preferring_sound_files()
    return dataset


def configured_backbone(config: ExtractConfig, modality: str) -> Backbone:
    """The backbone that a configuration names for a modality, on the CPU. Raises as :func:`build_extractor`."""
    choice = parse_backbone(config.visual if modality == "visual" else config.audio)
    backbone = create_backbone(
        choice.name,
        weights=choice.weights,
        seed=config.seed,
        modality=modality,
        precision=config.precision,
        embedding=config.embedding(modality),
        preprocessing=config.preprocessing,
    )
    if backbone.modality != modality:
        raise UsageError(f"--{modality} {choice.name}: that backbone is for {backbone.modality}")
    return backbone


def store_spec(extractor: Extractor, config: ExtractConfig) -> StoreSpec:
    """The specification of the store that an extractor fills; the same for every process that writes clips."""
    return StoreSpec(
        dataset=extractor.dataset.name,
        segments=extractor.dataset.segments,
        layers=extractor.layers,
        codec=extractor.codec.name,
        clips=tuple(clip.id for clip in extractor.dataset.clips),
        samples=extractor.dataset.samples,
        vocabulary=extractor.dataset.vocabulary,
        key=extraction_key(extractor, config),
        provenance=provenance(config),
        clips_per_shard=clips_in_a_shard(extractor, config),
        static=extractor.static,
    )


def clips_in_a_shard(extractor: Extractor, config: ExtractConfig) -> int:
    """How many clips a shard of the store holds that an extractor fills."""
    dataset = extractor.dataset
    return config.clips_per_shard or default_clips_per_shard(
        extractor.layers, dataset.segments, extractor.codec, len(dataset.clips)
    )


def extraction_key(extractor: Extractor, config: ExtractConfig) -> dict[str, object]:
    """The part of the store's key that extraction decides; the store adds annotations, layers and codec itself."""
    options = config.dataset_options
    return {
        **({"options": options} if options else {}),
        "backbones": {backbone.modality: backbone.fingerprint() for backbone in extractor.backbones},
        "decode": extractor.dataset.decode_policy,
        "compute": {
            "device": extractor.device.type,
            "precision": extractor.precision,
            "segments_a_pass": extractor.frames_a_pass,
        },
    }


def provenance(config: ExtractConfig) -> dict[str, object]:
    """For people: the command that makes this store anew; the same on every machine, for every root and every part."""
    words = ["mettle", "extract", "--dataset", config.dataset]
    words += ["--visual", _portable(config.visual), "--audio", _portable(config.audio)]
    if config.codec != DEFAULT_CODEC:
        words += ["--codec", config.codec_choice.portable]
    if config.layers:
        words += ["--layers", config.layers]
    if config.clips_per_shard:
        words += ["--clips-per-shard", str(config.clips_per_shard)]
    for option in config.chosen_options:
        words += ["--option", option]
    if config.seed:
        words += ["--seed", str(config.seed)]
    if config.precision != "float32":
        words += ["--precision", config.precision]
    heard = "first channel of a .wav at its own rate" if config.preprocessing.file_sound else "mean of the channels"
    sound = {"sound": heard} if config.shared else {}
    return {
        "command": " ".join(words),
        **sound,
        "mettle-cache": version("mettle-cache"),
    }


def _portable(text: str) -> str:
    """A backbone as the user wrote it, but a weights file by its name alone: folders differ between machines."""
    choice = parse_backbone(text)
    return f"{choice.name}={Path(choice.weights).name}" if "=" in text else choice.name
