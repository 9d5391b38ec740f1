"""``mettle bench costs``: the paper's tables of costs for one setting, measured here (Tables 1 to 4, 15 and 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mettle_cache.devices import choose_device
from mettle_cache.errors import RunError, UsageError
from mettle_cache.meta_device import on_meta
from mettle_cache.pipelines.benchmark.baselines.lavish import make_adapters
from mettle_cache.pipelines.benchmark.costs.child import (
    CostResult,
    ProbeRequest,
    measure_cost,
    probe_memory,
)
from mettle_cache.pipelines.benchmark.costs.setting import CostSetting, find_setting
from mettle_cache.pipelines.benchmark.costs.table import CostMeasurements, ParameterCount, cost_table
from mettle_cache.pipelines.benchmark.costs.variants import LAVISH, Variant, chosen_methods, codecs_of, cost_variants
from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_data_store
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.table import BenchTable
from mettle_cache.pipelines.memory import available_memory
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_bytes

# of the memory that is free, what adapters may fill
FILLED = 0.8


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Write the stores, leave out what does not fit here, and measure everything in turns."""
    setting, device = find_setting(options.recipe, tiny=options.tiny), choose_device(options.device)
    methods = chosen_methods(setting, options.methods)
    parameters, unfit = count_parameters(setting, methods)
    batch = options.batch or 1
    if LAVISH in parameters and not options.tiny and not options.latency:
        unfit |= too_large(setting, batch, device)
    fitting = [method for method in methods if method in parameters and method not in unfit]
    # a sample is held out where there are two, and a batch wants samples of its own
    data = setting.data(max(options.clips or 1, batch + 1))
    layers = setting.layers(setting.recipe())
    codecs = codecs_of(setting, fitting)
    sizes = [store_bytes(layers, codec, len(data.clips), segments=data.segments) for codec in codecs]
    with bench_folder(options, sum(sizes)) as place:
        for codec in codecs:
            write_data_store(place / codec, layers, codec=codec, data=data, progress=progress)
        variants = cost_variants(setting, fitting, place, device, options)
        results = take_turns(variants, options.repeats, progress)
    findings = CostMeasurements(
        setting=setting,
        batch=batch,
        device=device,
        variants=variants,
        results=results,
        parameters=parameters,
        unfit=unfit,
    )
    return cost_table(findings, options)


def count_parameters(setting: CostSetting, methods: Sequence[str]) -> tuple[dict[str, ParameterCount], dict[str, str]]:
    """The parameters by method, and the methods that this setting cannot have, with the reason."""
    counts: dict[str, ParameterCount] = {}
    unfit: dict[str, str] = {}
    for method in methods:
        try:
            trained = _count_adapted(setting) if method == LAVISH else setting.trained(setting.recipe(method))
        except UsageError as error:
            unfit[method] = error.message
            continue
        total = trained + setting.frozen
        counts[method] = ParameterCount(trained, total, (trained + setting.counted_trainable) / total)
    return counts, unfit


def _count_adapted(setting: CostSetting) -> int:
    if setting.task == "avs":
        raise UsageError("adapters are not measured for segmentation, whose head gives tokens no gradient")
    with on_meta():
        adapters = make_adapters(*setting.all_layers())
    parameters = sum(parameter.numel() for modality in adapters for parameter in modality.parameters())
    return parameters + setting.trained(setting.adapted_recipe())


def too_large(setting: CostSetting, batch: int, device: torch.device) -> dict[str, str]:
    """Why adapters are left out, if memory does not hold their graph: told from what one and two frames take."""
    probe = ProbeRequest(setting=setting.row.setting, frames=1, device=str(device), tiny=setting.tiny)
    one, two = (probe_memory(replace(probe, frames=frames)) for frames in (1, 2))
    return no_room(one, two, frames=batch * setting.frames, room=int(FILLED * available_memory(device)))


def no_room(one: int, two: int, *, frames: int, room: int) -> dict[str, str]:
    """The reason by variant where ``frames`` frames take more than ``room`` bytes, from what one and two take."""
    needed = one + (frames - 1) * max(two - one, 0)
    if needed <= room:
        return {}
    return {LAVISH: f"its graph needs about {format_bytes(needed)}, and {format_bytes(room)} may be filled here"}


def take_turns(variants: Sequence[Variant], repeats: int, progress: Progress) -> dict[str, list[CostResult]]:
    """Every variant ``repeats`` times; one that dies is left out from then on, and the progress says why."""
    results: dict[str, list[CostResult]] = {variant.name: [] for variant in variants}
    progress.start(repeats * len(variants), "measurements", "measure")
    for number in range(repeats):
        first = number % max(len(variants), 1)
        for variant in (*variants[first:], *variants[:first]):
            if variant.name in results:
                try:
                    results[variant.name].append(measure_cost(variant.request))
                except RunError as error:
                    progress.note(f"{variant.name}: {error}")
                    del results[variant.name]
            progress.advance()
    progress.finish()
    return results
