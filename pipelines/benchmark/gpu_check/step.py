"""A training step of the paper's best AVE row at full size, from tokens on the device, in host memory and on the disk.

It goes through the loader, residency and run that ``mettle train`` uses, on a store of its own in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.fullsize import write_bench_store
from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.heads import bench_recipe, store_run
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.limits import RawReader
from mettle_cache.pipelines.benchmark.online import now
from mettle_cache.pipelines.benchmark.readers import THREADS, token_ranges
from mettle_cache.pipelines.train.config import Resident
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, read_split
from mettle_cache.pipelines.train.step_graph import WARM_STEPS, StaticBatch
from mettle_cache.store.reading.token_store import TokenStore

CODECS = ("int8", "klt1.5")
BATCHES = 3
# epochs of as many steps as batches that are not timed: those before the capture, and that of the capture
_WARM = 1 + -(-WARM_STEPS // BATCHES)
# floats that one update of Adam moves for each parameter: weight, gradient and two moments read, all but one written
_ADAM_FLOATS = 7
# at most twice the floor from the device, nine tenths of the slower of disk and bus from the disk; batch 16 in 4 GB
GOALS = {"device": 0.5, "disk": 0.9}
PEAK_GOAL = 4.0


@dataclass(frozen=True)
class Limits:
    """Clips a second: what the device's memory, the bus and the disk allow at most."""

    device: float
    bus: float
    disk: float

    def of(self, tier: str) -> tuple[float, str]:
        """The limit of a tier, and what it is."""
        rates = {
            "device": self.device,
            "memory": min(self.device, self.bus),
            "disk": min(self.device, self.bus, self.disk),
        }
        words = {"device": "codes read twice, Adam", "memory": "bus or device", "disk": "disk, bus or device"}
        return rates[tier], words[tier]


def run(setting: Setting) -> Iterator[Finding]:
    """Each codec from each tier: clips a second beside the limit, and the memory that it took."""
    for codec in CODECS:
        with tempfile.TemporaryDirectory(prefix=".mettle-gpu-check-") as folder:
            path = Path(folder) / "bench.zarr"
            batch = bench_recipe(tiny=setting.tiny).train.batch_size
            write_bench_store(path, bench_layers(tiny=setting.tiny), codec=codec, clips=BATCHES * batch + 1)
            with TokenStore.open(path) as store:
                yield from from_every_tier(store, path, codec, batch, setting)


def from_every_tier(store: TokenStore, path: Path, codec: str, batch: int, setting: Setting) -> Iterator[Finding]:
    """Clips a second and peak memory of one head on one store."""
    # on a CPU the device's memory is the host's
    tiers: tuple[Resident, ...] = ("device", "memory", "disk") if setting.device.type != "cpu" else ("memory", "disk")
    limits = None
    for tier in tiers:
        setting.reset_peak()
        head = store_run(store, bench_recipe(tiny=setting.tiny), device=setting.device)
        limits = limits or measure_limits(store, path, head, batch, setting)
        try:
            rate = measure(store, head, tier, batch, setting)
        except UsageError as error:
            yield Finding(what=f"{codec} from {tier}", value=None, unit="clips/s", note=error.message)
            continue
        limit, limit_is = limits.of(tier)
        peak = setting.peak()
        yield Finding(
            what=f"{codec} from {tier}, batch {batch}",
            value=rate,
            unit="clips/s",
            limit=limit,
            limit_is=limit_is,
            share=rate / limit,
            least=None if setting.tiny else GOALS.get(tier),
            note="" if peak is None else _told_peak(peak, tier),
        )


def measure(store: TokenStore, head: Run, tier: Resident, batch: int, setting: Setting) -> float:
    """Clips a second, after epochs that fill the tier, compile what has to be compiled, and capture the step.

    Raises
    ------
    UsageError
        The tokens do not fit the tier.
    """
    rows = read_split(store, "train").rows[: BATCHES * batch]
    loader = SampleLoader(store, head.task.layers, device=setting.device)
    Residency(tier).settle(loader, rows, training=0)
    static, seconds = StaticBatch() if setting.device.type == "cuda" else None, []
    for epoch in range(_WARM + setting.repeats):
        started = now(setting.device)
        for index, each in enumerate(loader.batches(rows, batch)):
            head.step(static.hold(each) if static else each, epoch=epoch, index=index)
        seconds.append(now(setting.device) - started)
    return len(rows) / sorted(seconds[_WARM:])[setting.repeats // 2]


def measure_limits(store: TokenStore, path: Path, head: Run, batch: int, setting: Setting) -> Limits:
    """What the device's copy bandwidth, a copy from page-locked memory, and raw reads of the same bytes allow."""
    ranges = token_ranges(path, range(len(store.clips)))
    clip_bytes = sum(part.nbytes for part in ranges) / len(store.clips)
    update = head.parameters * _ADAM_FLOATS * torch.float32.itemsize / batch
    host = torch.zeros(int(batch * clip_bytes), dtype=torch.uint8, pin_memory=setting.device.type == "cuda")
    target = torch.empty_like(host, device=setting.device)
    reader = RawReader(ranges, threads=THREADS, memory=host.nbytes)
    return Limits(
        device=setting.copy_bandwidth / (2 * clip_bytes + update),
        bus=batch / setting.time(lambda: target.copy_(host, non_blocking=True)),
        disk=len(store.clips) / setting.time(reader.read),
    )


def _told_peak(peak: float, tier: str) -> str:
    beside = ", the tokens that stay included" if tier == "device" else ""
    goal = f", above the goal of {PEAK_GOAL:.0f} GB" if tier != "device" and peak > PEAK_GOAL else ""
    return f"{peak:.2f} GB on the device at most{beside}{goal}"
