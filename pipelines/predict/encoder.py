"""Windows to tokens as a store holds them: by its backbones, layers and codec, in the passes of an extraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from mettle_cache.backbones import Backbone
from mettle_cache.datasets import dataset_info
from mettle_cache.devices import available_cores
from mettle_cache.errors import MediaError, RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import pool_tokens
from mettle_cache.pipelines.companions.pooled_table import POOLED_CODEC, pooled_tables
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.pipelines.extract.passes import encode_clips
from mettle_cache.pipelines.predict.head import TrainedHead
from mettle_cache.pipelines.predict.windows import ClipForm, Window, WindowDataset
from mettle_cache.pipelines.recode.run import RECODED
from mettle_cache.store.format.codecs import codec_version, encode_layers, get_codec
from mettle_cache.tokens import LayerTokens

Tokens = dict[str, LayerTokens]


@dataclass(frozen=True)
class ReadWindow:
    """A window's inputs to the backbones, and the seconds that decoding it took."""

    start: int
    fresh: int
    extractor: Extractor
    clips: tuple[PreparedClip, ...]
    decoding: float


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns windows into one sample's tokens ``[1, T, N, *]`` by layer name, on the head's device.

    ``notes`` say where these tokens are not those that a store would hold.
    """

    extractor: Extractor
    form: ClipForm
    head: TrainedHead
    earlier: tuple[str, ...]
    notes: tuple[str, ...]

    def read(self, window: Window, path: Path) -> ReadWindow:
        """Decode and preprocess a window of the media at ``path``. Raises MediaError."""
        started = perf_counter()
        dataset = WindowDataset(self.extractor.dataset.name, path, self.form, window)
        extractor = replace(self.extractor, dataset=dataset)
        clips = tuple(PreparedClip(index, extractor.read(index), "") for index in range(len(dataset.clips)))
        return ReadWindow(window.start, window.fresh, extractor, clips, perf_counter() - started)

    def encode(self, window: ReadWindow) -> tuple[Tokens, float]:
        """Tokens of a window, and the seconds that they took. Raises MediaError, MachineError."""
        started = perf_counter()
        codes: dict[int, Tokens] = {}
        for group in window.extractor.groups(range(len(window.clips))):
            encoded = encode_clips(window.extractor, [window.clips[index] for index in group])
            for index, result in encoded.items():
                if isinstance(result, MediaError):
                    raise result
                codes[index] = result
        clips = [codes[index] for index in sorted(codes)]
        tokens = {name: _join([clip[name] for clip in clips]) for name in clips[0]}
        return self._pool(self._recode(tokens)), perf_counter() - started

    def _recode(self, tokens: Tokens) -> Tokens:
        """Through the codecs that a recoded store went through."""
        chain = [*self.earlier, self.head.origin.codec]
        for name in chain[1:]:
            floats = {layer: each.floats() for layer, each in tokens.items()}
            static = self.head.static if name == chain[-1] else {}
            tokens = encode_layers(floats, get_codec(name), self.head.origin.layers, static)
        return tokens

    def _pool(self, tokens: Tokens) -> Tokens:
        """Add the coarser grids that the head reads, as a store's companions hold them."""
        for table in pooled_tables(self.head.origin.layers, self.head.task.pooled):
            floats = {each.layer.name: pool_tokens(tokens[each.layer.name], each) for each in table.pooled}
            encoded = encode_layers(floats, get_codec(POOLED_CODEC))
            tokens = {**tokens, **{each.name: encoded[each.layer.name] for each in table.pooled}}
        return tokens


def _join(clips: Sequence[LayerTokens]) -> LayerTokens:
    """Clips ``[T, N, *]`` of one layer as one sample ``[1, F T, N, *]``."""
    parts = {name: torch.cat([clip.parts[name] for clip in clips]).unsqueeze(0) for name in clips[0].parts}
    return replace(clips[0], codes=torch.cat([clip.codes for clip in clips]).unsqueeze(0), parts=parts)


def build_encoder(head: TrainedHead, backbones: Sequence[Backbone], device: torch.device) -> Encoder:
    """The encoder of a head's tokens.

    Raises
    ------
    RunError
        What the codec needs is not kept in the run.
    UsageError
        The data set or the codec is not known here.
    """
    origin, task = head.origin, head.task
    info = dataset_info(origin.dataset)
    form = ClipForm(info.media_segments or origin.segments, origin.segments, info.picture_rule)
    layers = tuple(layer for layer in origin.layers if layer.name in {each.name for each in task.layers})
    _require_static(head, layers)
    earlier = tuple(name for name in origin.extraction.get(RECODED, ()) if "," not in name)
    first = earlier[0] if earlier else origin.codec
    extractor = Extractor(
        dataset=WindowDataset(origin.dataset, head.path, form),
        backbones=tuple(backbones),
        layers=layers,
        codec=get_codec(first),
        device=device,
        precision=str(origin.extraction.get("compute", {}).get("precision", "float32")),
        cores=available_cores(),
        static={} if earlier else head.static,
    )
    return Encoder(extractor, form, head, earlier, tuple(_notes(head, device)))


def _require_static(head: TrainedHead, layers: Sequence[LayerSpec]) -> None:
    codec = get_codec(head.origin.codec)
    lacking = [layer.name for layer in layers if layer.name not in head.static]
    if lacking and codec.pilot(layers) is not None:
        raise RunError(
            f"{head.path}: the static arrays of codec {codec.name} are not kept here, so its tokens cannot be encoded",
            hint="name the run's store with --store",
        )


def _notes(head: TrainedHead, device: torch.device) -> Iterator[str]:
    origin = head.origin
    codec, compute = get_codec(origin.codec), origin.extraction.get("compute", {})
    if codec_version(codec) != origin.codec_version:
        yield (
            f"tokens are encoded by version {codec_version(codec)} of {codec.name}, those that the head was trained on "
            f"by version {origin.codec_version}"
        )
    if compute.get("device") not in (None, device.type):
        there = compute["device"]
        yield f"the store's tokens were computed on {there}, these are on {device.type}: they differ by rounding"
    made_by = _versions(origin.extraction.get("decode", {}))
    for name, version in _versions(_decoders()).items():
        if made_by.get(name, version) != version:
            yield f"media are decoded by {name} {version}, those of the store were by {made_by[name]}"


def _decoders() -> Mapping[str, object]:
    from mettle_cache.datasets.media import pixels, video, waveform

    return {"versions": {**video.decoder_versions(), **pixels.decoder_versions(), **waveform.decoder_versions()}}


def _versions(policy: object) -> dict[str, object]:
    """Versions of decoders by library, wherever in a policy they stand."""
    found: dict[str, object] = {}
    if isinstance(policy, Mapping):
        for key, value in policy.items():
            found |= dict(value) if key == "versions" and isinstance(value, Mapping) else _versions(value)
    return found
