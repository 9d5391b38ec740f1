"""``mettle bench codec``: bytes, errors by layer and encoding time of the codecs, beside the backbones' time.

Errors are of held-out frames: static arrays come from a pilot on others. By default tokens have a stated spectrum
(:mod:`~mettle_cache.pipelines.benchmark.spectral`) and one block of each stage stands for all; with a store in float16
they are that store's, layer by layer, the pilot looks at clips of training samples and errors are of other clips.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mettle_cache.devices import choose_device, one_thread
from mettle_cache.layers import LayerSpec, with_cells
from mettle_cache.pipelines.benchmark.codec_errors import CodecErrors, codec_errors
from mettle_cache.pipelines.benchmark.codec_tokens import SpectralTokens, StoreTokens
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Repeats, TimedVariant, time_interleaved
from mettle_cache.store.format.codecs import StaticArrays, encode_layers, get_codec
from mettle_cache.store.format.layout import (
    RECORDS,
    bytes_per_clip,
    default_clips_per_shard,
    shard_files,
    static_layout,
)

CODEC_NAMES = ("float16", "int8", "int4", "klt2", "klt1.5", "klt1.32", "klt1.25", "klt0")
CELLS = "klt1.5 in cells"
# what is timed: name, codec, whether fine stages take cells
TIMED = (("int8", "int8", False), ("klt1.5", "klt1.5", False), (CELLS, "klt1.5", True))
BACKBONES = "backbones"
# videos of the published data set
AVE_CLIPS = 4097
# at klt1.5, of all layers at full size
GOAL_BYTES, GOAL_ENCODING = 11.5, 0.10
GOAL_FILES = {"klt1.5": 2000, "int8": 3000}

Tokens = SpectralTokens | StoreTokens


@dataclass(frozen=True)
class Variant:
    """A codec on layers with or without cells, with its static arrays."""

    name: str
    codec: str
    layers: tuple[LayerSpec, ...]
    static: StaticArrays


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Errors of every codec, then the time of encoding."""
    device = choose_device(options.device)
    tokens: Tokens
    if options.store is None:
        tokens = SpectralTokens(tiny=options.tiny, clips=options.clips or 1)
    else:
        tokens = StoreTokens.open(options.store, clips=options.clips or 1)
    variants = list(_variants(tokens, progress))
    errors = {variant.name: _errors(variant, tokens, device, progress) for variant in variants}
    timed = list(_timed(variants, tokens, device))
    if options.store is None:
        timed.append(TimedVariant(BACKBONES, _backbone_clock(options, device), own_clock=True))
    seconds = time_interleaved(timed, repeats=options.repeats, progress=progress, warm_up=options.tiny)
    denominators = _denominators(tokens, seconds)
    rows = [*_byte_rows(variants, tokens, denominators), *_time_rows(seconds, denominators)]
    if options.store is None:
        rows += _set_rows(variants, tokens)
    rows += [row for name, of_layers in errors.items() for row in _error_rows(name, of_layers)]
    full = options.store is None and not options.tiny
    return BenchTable(
        bench="codec",
        title=f"codecs on {tokens.what}",
        rows=tuple(rows),
        denominators=tuple(denominators.values()),
        goals=tuple(_goals({row.variant: row for row in rows})) if full else (),
        notes=_NOTES,
        repeats=options.repeats,
    )


_NOTES = (
    "error: the L2 norm of the difference over that of the tokens, both normalised over channels; raw: not normalised",
    "mean: the same of each frame's mean token; klt keeps that of normalised tokens, up to float16",
    "a clip's encoding is one thread's time; one block's, times the blocks of its stage",
)


def _variants(tokens: Tokens, progress: Progress) -> Iterator[Variant]:
    celled = with_cells(tokens.layers)
    takes = [(name, name, False) for name in CODEC_NAMES]
    if celled != tokens.layers:
        takes.append((CELLS, "klt1.5", True))
    progress.start(len(takes), "codecs", "look at frames")
    for name, codec, cells in takes:
        layers = celled if cells else tokens.layers
        yield Variant(name, codec, layers, tokens.static(codec, layers))
        progress.advance()
    progress.finish()


def _errors(variant: Variant, tokens: Tokens, device: torch.device, progress: Progress) -> list[CodecErrors]:
    codec, found = get_codec(variant.codec), []
    progress.start(len(variant.layers), "layers", f"errors of {variant.name}")
    for layer in variant.layers:
        sums = CodecErrors(layer)
        for x in tokens.held_out(layer):
            x = x.to(device)
            encoded = encode_layers({layer.name: x}, codec, [layer], variant.static)[layer.name]
            sums = sums + codec_errors(layer, x, encoded)
        found.append(sums)
        progress.advance()
    progress.finish()
    return found


def _timed(variants: Iterable[Variant], tokens: Tokens, device: torch.device) -> Iterator[TimedVariant]:
    by_name = {variant.name: variant for variant in variants}
    inputs = {layer.name: next(iter(tokens.held_out(layer))).to(device) for layer in tokens.layers}
    for name, _, _ in TIMED:
        if name in by_name:
            yield TimedVariant(name, partial(_encoding_seconds, by_name[name], inputs, tokens), own_clock=True)


def _encoding_seconds(variant: Variant, inputs: Mapping[str, Tensor], tokens: Tokens) -> float:
    codec, seconds = get_codec(variant.codec), 0.0
    for layer in variant.layers:
        x = inputs[layer.name]
        with one_thread(x.device):
            started = time.perf_counter()
            encode_layers({layer.name: x}, codec, [layer], variant.static)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            elapsed = time.perf_counter() - started
        seconds += elapsed * tokens.blocks(layer) * tokens.segments / len(x)
    return seconds


def _backbone_clock(options: BenchOptions, device: torch.device) -> Callable[[], float]:
    """Seconds that one core, or the GPU, computes for a clip."""
    from mettle_cache.backbones import create_backbone
    from mettle_cache.devices import available_cores
    from mettle_cache.pipelines.benchmark.extract import BENCH_BACKBONES, TINY_BACKBONES
    from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS
    from mettle_cache.pipelines.extract.plan import seconds_a_clip

    names = TINY_BACKBONES if options.tiny else BENCH_BACKBONES
    backbones = [
        create_backbone(name.partition("=")[0], weights="random", modality=modality).to(device)
        for name, modality in zip(names, ("visual", "audio"), strict=True)
    ]
    cores = available_cores() if device.type == "cpu" else 1
    return lambda: seconds_a_clip(backbones, device, SEGMENTS) * cores


def _denominators(tokens: Tokens, seconds: Mapping[str, Repeats]) -> dict[str, BenchRow]:
    rows = [measured("float16: bytes", Repeats((_megabytes("float16", tokens.all_layers, tokens),)), "MB a clip")]
    if BACKBONES in seconds:
        rows.append(measured(BACKBONES, seconds[BACKBONES], "s a clip", note="forward passes, one thread each"))
    return {row.variant: row for row in rows}


def _byte_rows(variants: Sequence[Variant], tokens: Tokens, of: Mapping[str, BenchRow]) -> Iterator[BenchRow]:
    for variant in variants:
        if variant.name in CODEC_NAMES[1:]:
            size = _megabytes(variant.codec, tokens.all_layers, tokens)
            yield measured(f"{variant.name}: bytes", Repeats((size,)), "MB a clip", of=of["float16: bytes"])


def _set_rows(variants: Sequence[Variant], tokens: Tokens) -> Iterator[BenchRow]:
    """Bytes and files of a store of AVE with these layers; static arrays are counted once."""
    layers, segments, whole = tokens.all_layers, tokens.segments, None
    for name in (variant.name for variant in variants if variant.name in CODEC_NAMES):
        codec = get_codec(name)
        each = default_clips_per_shard(layers, segments, codec, AVE_CLIPS)
        files = shard_files(layers, segments, codec, clips=AVE_CLIPS, clips_each=each)
        static = sum(array.nbytes for array in static_layout(layers, segments, codec))
        size = Repeats((AVE_CLIPS * _megabytes(name, layers, tokens) / 1e3 + static / 1e9,))
        row = measured(f"{name}: AVE", size, "GB", of=whole, note=f"{AVE_CLIPS:,} clips")
        whole = whole or row
        yield row
        yield measured(f"{name}: AVE's files", Repeats((files,)), "files", note=f"{each} clips a shard")


def _megabytes(codec: str, layers: Sequence[LayerSpec], tokens: Tokens) -> float:
    """Of a clip's arrays, with their checksums."""
    sizes = bytes_per_clip(layers, tokens.segments, get_codec(codec))
    return (sum(sizes.values()) - sizes[RECORDS]) / 1e6


def _time_rows(seconds: Mapping[str, Repeats], of: Mapping[str, BenchRow]) -> Iterator[BenchRow]:
    for name, values in seconds.items():
        if name != BACKBONES:
            yield measured(f"{name}: encoding", values, "s a clip", of=of.get(BACKBONES))


def _error_rows(name: str, errors: Sequence[CodecErrors]) -> Iterator[BenchRow]:
    for error in errors:
        note = f"raw {error.raw:.4f}; mean {error.mean:.1e}; raw mean {error.raw_mean:.1e}"
        yield BenchRow(variant=f"{name}: {error.layer.name}", value=error.tokens, unit="error", note=note)


def _goals(rows: Mapping[str, BenchRow]) -> Iterator[Goal]:
    size, ratio = rows["klt1.5: bytes"].value or 0.0, rows["klt1.5: encoding"].ratio or 0.0
    yield Goal(what="klt1.5: bytes of a clip of all layers", wanted=GOAL_BYTES, found=size, unit="MB", least=False)
    yield Goal(what="klt1.5: encoding, of the backbones", wanted=GOAL_ENCODING, found=ratio, least=False)
    for name, most in GOAL_FILES.items():
        found = rows[f"{name}: AVE's files"].value or 0.0
        yield Goal(what=f"{name}: files of AVE", wanted=most, found=found, least=False)
