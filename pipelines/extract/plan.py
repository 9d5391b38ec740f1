"""The cost of an extraction before it runs: bytes, files, hours, and whether reading beats recomputing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mettle_cache.backbones import Backbone, create_backbone, layer_table, parse_backbone, shared_audio
from mettle_cache.datasets import Dataset
from mettle_cache.devices import available_cores, choose_device
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.paths import command_line
from mettle_cache.pipelines.extract.bills import Bill, StageBill, stage_bills, usual_bills
from mettle_cache.pipelines.extract.bound import Rates, codec_for, describe_bound, describe_writes
from mettle_cache.pipelines.extract.config import ExtractConfig, default_store_path
from mettle_cache.pipelines.extract.extractor import Extractor, clips_a_batch_on_gpu, open_config_dataset
from mettle_cache.pipelines.extract.limit import clips_beyond, limit_notes, within_limit
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.extract.trials import measure_decoding, try_disk
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.reading.disk_speed import measure_read_speed
from mettle_cache.store.writing.durable import disk_folder
from mettle_cache.store.writing.write_speed import WriteSpeed, check_room_for_test

# on a CPU: enough for a steady rate, few enough for a second or two of Swin-V2-L on a core
TIMED_SEGMENTS = 2
KNOWN_OF_KLT = (
    "klt: how heads do on it was measured on features of small pretrained backbones (docs/codecs.md); no weights of "
    "Swin-V2 or HTS-AT could be had, so of these sizes and speeds are known, accuracy is not"
)


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """The plan of an extraction; rates are None where nothing was measured.

    ``clips`` and ``rows`` are those that would be in the store, ``taken`` the clips' indexes; ``left_out`` clips of the
    data set are beyond ``--limit``. ``recomputes_per_second`` is clips/s of the frozen backbones alone. ``rates`` are
    those of the extraction's stages, ``bound`` says which of them it waits for, ``hours`` what it takes then.
    ``writes`` is the test of the disk, and ``writing`` says what it could see. ``online`` is the command that trains
    without a store, where that is faster or the store does not fit.
    """

    dataset: str
    root: Path
    out: Path
    clips: int
    taken: Sequence[int]
    left_out: int
    rows: int
    segments: int
    missing: int
    stages: tuple[StageBill, ...]
    bills: tuple[Bill, ...]
    chosen: Bill
    free: int
    device: str
    disk_bytes_per_second: float | None
    recomputes_per_second: float | None
    hours: float | None
    verdict: str
    rates: Rates
    bound: str = ""
    writes: WriteSpeed | None = None
    writing: str = ""
    online: str | None = None
    notes: tuple[str, ...] = (KNOWN_OF_KLT,)

    @property
    def ok(self) -> bool:
        """Whether the extraction could start: nothing is missing and there is room."""
        return self.missing == 0 and self.chosen.fits

    def to_json(self) -> dict[str, object]:
        own = {"root": str(self.root), "out": str(self.out), "ok": self.ok, "rates": self.rates.to_json()}
        document = {**asdict(self), **own}
        del document["taken"]  # as many numbers as there are clips
        return document


def make_plan(
    config: ExtractConfig, *, measure: bool = True, disk_test: int | None = None, progress: Progress | None = None
) -> PlanReport:
    """Compute what ``config`` would cost. Writes nothing but temporary files, for the speed of the disk.

    ``disk_test``: test the disk by writing so many bytes, instead of for some seconds; also without ``measure``.

    Raises
    ------
    UsageError
        An unknown data set, backbone, codec or layer.
    DatasetError
        Annotations that are missing or malformed.
    NoRoomError, StoreError
        The disk has no room for its test, or cannot be written.
    """
    progress = progress or Silent()
    # what is wrong with names shows before the media are looked for
    get_codec(config.codec_choice.name)
    device, layers = choose_device(config.device), _tabled_layers(config)
    chosen = select_layers(layers, config.layer_selection)
    backbones = _timed_backbones(config, device) if measure else ()
    dataset, out = open_config_dataset(config), config.out or default_store_path(config)
    free = check_room_for_test(disk_folder(out), disk_test or 0)
    speed = recompute = decoding = None
    if measure:
        progress.note("timing media, a short forward pass and the disk, for some seconds; --no-measure skips all that")
        recompute = 1 / seconds_a_clip(backbones, device, dataset.segments)
        speed = measure_read_speed(disk_folder(out))
        taken = within_limit(dataset, config.limit)
        decoding = measure_decoding(_decoder(config, taken, backbones, chosen, device))
    report = _report(config, dataset, out, layers, free=free, speed=speed, recompute=recompute)
    writes = None
    if measure or disk_test:
        writes = try_disk(
            disk_folder(out), store_bytes=report.chosen.nbytes, free=free, chosen=disk_test, progress=progress
        )
    return _with_stages(report, config.precision, decoding, writes)


def _with_stages(report: PlanReport, precision: str, decoding: float | None, writes: WriteSpeed | None) -> PlanReport:
    """The plan with what was found of the extraction's stages; ``decoding`` in clips/s."""
    chosen = report.chosen
    if writes is None:
        rates, smaller = replace(report.rates, decode=decoding), None
    else:
        rates = replace(report.rates, decode=decoding, disk=writes.sustained / chosen.clip_bytes)
        codecs = {bill.codec: bill.clip_bytes for bill in report.bills if bill.layers == chosen.layers}
        smaller = codec_for(rates, writes.sustained, codecs, chosen.codec)
    return replace(
        report,
        rates=rates,
        bound=describe_bound(rates, precision=precision, smaller=smaller),
        hours=report.clips / rates.expected / 3600 if rates.expected else None,
        writes=writes,
        writing=describe_writes(writes, chosen.nbytes) if writes else "",
    )


def _decoder(
    config: ExtractConfig,
    dataset: Dataset,
    backbones: Sequence[Backbone],
    layers: tuple[LayerSpec, ...],
    device: torch.device,
) -> Extractor:
    """What decodes clips as the extraction would: for the backbones that it runs."""
    read = {layer.modality for layer in layers}
    return Extractor(
        dataset=dataset,
        backbones=tuple(backbone for backbone in backbones if backbone.modality in read),
        layers=layers,
        codec=get_codec(config.codec_choice.name),
        device=device,
        precision=config.precision,
        cores=available_cores(),
        budget=config.memory_budget,
    )


def _report(
    config: ExtractConfig,
    dataset: Dataset,
    out: Path,
    layers: Sequence[LayerSpec],
    *,
    free: int,
    speed: float | None,
    recompute: float | None,
) -> PlanReport:
    beyond = clips_beyond(dataset, config.limit)
    taken = [index for index, clip in enumerate(dataset.clips) if clip.id not in beyond]
    bills = usual_bills(config, dataset, taken, layers, free=free, speed=speed)
    chosen = next(
        bill for bill in bills if (bill.layers, bill.codec) == (config.layer_selection, config.codec_choice.name)
    )
    return PlanReport(
        dataset=dataset.name,
        root=dataset.root,
        out=out,
        clips=len(taken),
        taken=taken,
        left_out=len(beyond),
        rows=sum(beyond.keys().isdisjoint(clips) for clips in clips_of_samples(dataset.samples)),
        segments=dataset.segments,
        missing=len({problem.clip for problem in within_limit(dataset, config.limit).problems()} - beyond.keys()),
        stages=stage_bills(select_layers(layers, config.layer_selection), dataset),
        bills=bills,
        chosen=chosen,
        free=free,
        device=str(choose_device(config.device)),
        disk_bytes_per_second=speed,
        recomputes_per_second=recompute,
        hours=None,
        verdict=verdict(chosen.reads_per_second, recompute),
        online=None if _store_pays(chosen, recompute) else _online(config),
        notes=(*limit_notes(dataset, config.limit), KNOWN_OF_KLT),
        rates=Rates(decode=None, device=recompute, disk=None, shares_cores=choose_device(config.device).type == "cpu"),
    )


def _store_pays(chosen: Bill, recomputes: float | None) -> bool:
    slower = recomputes is not None and chosen.reads_per_second is not None and chosen.reads_per_second < recomputes
    return chosen.fits and not slower


def _online(config: ExtractConfig) -> str:
    """The training that computes these tokens in every step; in its own codec, because nothing is stored."""
    return command_line("mettle train --online", *config.words(without=("codec", "out", "seed")))


def verdict(reads: float | None, recomputes: float | None) -> str:
    """The crossover in words; rates in clips/s."""
    if reads is None or recomputes is None:
        return "not measured: whether reading beats computing again is unknown"
    rates = f"reading gives {reads:.1f} clips/s from this disk, computing again {recomputes:.2f} clips/s here"
    if reads >= recomputes:
        return f"{rates}: every epoch from the store is {reads / recomputes:.1f} times faster than the backbone alone"
    return (
        f"{rates}: an epoch from this disk is SLOWER than the backbone; the store still saves memory, and time over "
        "several heads that share a read. int4 or fewer layers help; so does training without a store, with --online"
    )


def _timed_backbones(config: ExtractConfig, device: torch.device) -> tuple[Backbone, ...]:
    """The backbones as they would run. Time does not depend on weights: random ones do unless a file is named."""
    visual = _create(config.visual, config, "visual")
    audio = shared_audio(visual) if config.shared else _create(config.audio, config, "audio")
    return visual.to(device), audio.to(device)


def _create(text: str, config: ExtractConfig, modality: str) -> Backbone:
    choice = parse_backbone(text)
    weights = "random" if choice.weights == "pretrained" else choice.weights
    return create_backbone(
        choice.name,
        weights=weights,
        modality=modality,
        precision=config.precision,
        embedding=config.embedding(modality),
        preprocessing=config.preprocessing,
    )


def _tabled_layers(config: ExtractConfig) -> tuple[LayerSpec, ...]:
    heard = config.visual if config.shared else config.audio
    named = {"visual": parse_backbone(config.visual).name, "audio": parse_backbone(heard).name}
    tables = [layer_table(name, modality, embedding=config.embedding(modality)) for modality, name in named.items()]
    return (*tables[0], *tables[1])


def seconds_a_clip(backbones: Sequence[Backbone], device: torch.device, segments: int) -> float:
    """Seconds that a clip takes in a steady stream of forward passes, as extraction runs them, from a short trial.

    On a CPU one pass a core, all at once, of :data:`TIMED_SEGMENTS` segments; on a GPU whole batches of clips of
    ``segments`` segments.
    """
    on_cpu = device.type == "cpu"
    at_once = available_cores() if on_cpu else 1
    size = TIMED_SEGMENTS if on_cpu else clips_a_batch_on_gpu(segments) * segments
    total = 0.0
    for backbone in backbones:
        passes = [(torch.zeros(size, *backbone.segment_shape, device=device),)] * at_once
        run_passes([backbone], passes, at_once=at_once, device=device)  # the first round warms up
        total += run_passes([backbone], passes, at_once=at_once, device=device) / (at_once * size)
    return segments * total


def run_passes(
    backbones: Sequence[Backbone], passes: Sequence[Sequence[Tensor]], *, at_once: int, device: torch.device
) -> float:
    """Run forward passes over resident inputs, ``at_once`` at a time, and throw their tokens away; returns seconds.

    Each pass holds one input ``[B, *segment_shape]`` for each backbone.
    """

    def forward(inputs: Sequence[Tensor]) -> None:
        with torch.inference_mode():
            for backbone, x in zip(backbones, inputs, strict=True):
                backbone.forward_tokens(x)

    with reproducible_passes(device), ThreadPoolExecutor(at_once) as executor:
        started = time.perf_counter()
        list(executor.map(forward, passes))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started
