"""``mettle bench step``: a training step from codes, beside the two ways that it replaces and the floor.

Every measurement is a new process, one at a time and in turns, so that it counts the memory of one variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from mettle_cache.devices import choose_device
from mettle_cache.errors import RunError
from mettle_cache.klt_tokens import KltFormat
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles
from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.heads import bench_recipe
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_layers, bench_static
from mettle_cache.pipelines.benchmark.limits import RawReader, matmul_rate
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.products import Products, affine_products, klt_products
from mettle_cache.pipelines.benchmark.readers import THREADS, token_ranges
from mettle_cache.pipelines.benchmark.step_child import (
    HeadsRequest,
    StepRequest,
    StepResult,
    measure_heads,
    measure_steps,
    timed,
)
from mettle_cache.pipelines.benchmark.step_table import (
    FLOAT_PRODUCTS,
    HEAD_COUNTS,
    KLT,
    KLT_CODEC,
    KLT_FLOAT_PRODUCTS,
    ONLINE,
    OURS,
    STEPS,
    STOCK,
    UNTIMED,
    Limits,
    StepMeasurements,
    step_table,
)
from mettle_cache.pipelines.benchmark.table import BenchTable
from mettle_cache.pipelines.memory import available_memory
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.format.codecs import get_codec

CODEC_NAMES = ("int8", KLT_CODEC, "float16")
# a backbone's forward pass takes seconds a clip on a CPU, and one clip after the other as long as several at once
ONLINE_CLIPS_ON_CPU = 1
# of the memory that is free, what a batch may fill
FILLED = 0.8
MATRIX, TINY_MATRIX = 1024, 64


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write the stores, find the batches that fit, and measure everything in turns."""
    layers, clips = bench_layers(tiny=options.tiny), options.clips or 1
    device = choose_device(options.device)
    batch = bench_recipe(tiny=options.tiny).train.batch_size
    with bench_folder(options, sum(store_bytes(layers, codec, clips) for codec in CODEC_NAMES)) as place:
        for codec in CODEC_NAMES:
            write_bench_store(place / codec, layers, codec=codec, clips=clips, progress=progress)
        requests = _requests(place, batch, device, options.tiny)
        limit = _limit_probe(place / "int8", clips, batch, device, options.tiny)
        results, limits = take_turns(requests, limit, options.repeats, progress)
        progress.note(f"heads that share a pass: {', '.join(map(str, HEAD_COUNTS))}")
        heads = measure_heads(
            HeadsRequest(
                store=str(place / "int8"),
                batch=batch,
                counts=HEAD_COUNTS,
                repeats=options.repeats,
                device=str(device),
                tiny=options.tiny,
                untimed=UNTIMED,
            )
        )
    findings = StepMeasurements(
        batch=batch,
        device=device,
        requests=requests,
        results=results,
        limits=limits,
        heads=heads,
        products=_products(layers, batch, options.tiny),
    )
    return step_table(findings, options)


def _products(layers: Sequence[LayerSpec], batch: int, tiny: bool) -> dict[str, Products]:
    """What the heads need by variant; ours and klt's."""
    recipe, static, codec = bench_recipe(tiny=tiny), bench_static(tuple(layers), KLT_CODEC), get_codec(KLT_CODEC)
    formats = {layer.name: cast(KltFormat, codec.format(layer, static[layer.name])) for layer in layers}
    return {
        OURS: affine_products(layers, recipe, segments=SEGMENTS),
        KLT: klt_products(layers, formats, recipe, segments=SEGMENTS, batch=batch),
    }


def _requests(place: Path, batch: int, device: torch.device, tiny: bool) -> dict[str, StepRequest]:
    """The request of each variant: a batch of the recipe's size, or the largest that memory holds."""
    ours = StepRequest(
        store=str(place / "int8"),
        attention="absorbed",
        batch=batch,
        steps=STEPS,
        device=str(device),
        tiny=tiny,
        untimed=UNTIMED,
    )
    klt = replace(ours, store=str(place / KLT_CODEC))
    codes = {OURS: ours, KLT: klt}
    if device.type == "cpu" and has_byte_tiles():
        codes |= {
            FLOAT_PRODUCTS: replace(ours, byte_tiles=False),
            KLT_FLOAT_PRODUCTS: replace(klt, byte_tiles=False),
        }
    # these take a minute each, of which neither is a noticeable part
    stock = replace(ours, store=str(place / "float16"), attention="stock", steps=1, untimed=1)
    online = replace(stock, store=None, batch=batch if tiny else ONLINE_CLIPS_ON_CPU)
    if tiny:
        return {**codes, STOCK: stock, ONLINE: online}
    stock = replace(stock, batch=_largest_batch(stock, batch, device))
    if device.type != "cpu":
        online = replace(online, batch=_largest_batch(online, batch, device))
    return {**codes, STOCK: stock, ONLINE: online}


def _largest_batch(request: StepRequest, most: int, device: torch.device) -> int:
    one, two = (measure_steps(replace(request, batch=clips)).peak for clips in (1, 2))
    return fitting_batch(one, two, most=most, room=int(FILLED * available_memory(device)))


def fitting_batch(one: int, two: int, *, most: int, room: int) -> int:
    """The largest batch, up to ``most``, that takes no more than ``room`` bytes, from what one and two clips take."""
    return max(1, min(most, 1 + (room - one) // max(two - one, 1)))


def _limit_probe(store: Path, clips: int, batch: int, device: torch.device, tiny: bool) -> Callable[[], Limits]:
    ranges = token_ranges(store, range(clips))
    nbytes = sum(part.nbytes for part in ranges)
    reader = RawReader(ranges, threads=THREADS, memory=batch * nbytes // clips)
    reader.read()
    side = TINY_MATRIX if tiny else MATRIX

    def probe() -> Limits:
        seconds = timed(reader.read, torch.device("cpu"))
        return Limits(seconds / clips, matmul_rate(side, side, side, device=device))

    return probe


def take_turns(
    requests: dict[str, StepRequest], limit: Callable[[], Limits], repeats: int, progress: Progress
) -> tuple[dict[str, list[StepResult]], list[Limits]]:
    """All variants and the machine's limits, ``repeats`` times; a variant that dies is left out from then on."""
    results: dict[str, list[StepResult]] = {name: [] for name in requests}
    limits = []
    progress.start(repeats * len(requests), "measurements", "measure")
    for number in range(repeats):
        limits.append(limit())
        names, first = list(results), number % max(len(results), 1)
        for name in names[first:] + names[:first]:
            try:
                results[name].append(measure_steps(requests[name]))
            except RunError as error:
                if name == OURS:
                    raise
                progress.note(f"{name}: {error}")
                del results[name]
            progress.advance()
    progress.finish()
    return results, limits
