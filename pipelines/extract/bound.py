"""What an extraction would wait for: the media's decoding, the device, or the disk that takes the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from mettle_cache.backbones.protocol import EXACT
from mettle_cache.pipelines.report.units import format_bytes, format_rate
from mettle_cache.store.writing.write_speed import WriteSpeed

Stage = Literal["decode", "device", "disk"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Clips/s of each stage by itself; None where it was not measured.

    ``decode`` with every core, ``device`` the backbones alone, ``disk`` what it takes for long. ``shares_cores``: the
    backbones run on the cores that decode, so the two add up instead of overlapping.
    """

    decode: float | None
    device: float | None
    disk: float | None
    shares_cores: bool

    @property
    def bound(self) -> Stage | None:
        """The slowest stage; None unless all were measured."""
        if self.decode is None or self.device is None or self.disk is None:
            return None
        stages: list[tuple[float, Stage]] = [(self.decode, "decode"), (self.device, "device"), (self.disk, "disk")]
        return min(stages)[1]

    @property
    def expected(self) -> float | None:
        """Clips/s of an extraction, as far as its stages were measured; None unless the device was."""
        if self.device is None:
            return None
        computing = self.device
        if self.decode is not None:
            shared = 1 / (1 / self.device + 1 / self.decode)
            computing = shared if self.shares_cores else min(self.device, self.decode)
        return computing if self.disk is None else min(computing, self.disk)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "bound": self.bound, "expected": self.expected}


def describe_bound(rates: Rates, *, precision: str, smaller: str | None) -> str:
    """The bound in words with what may be done about it; ``smaller`` says a codec that the disk takes faster."""
    parts = (("decoding gives", rates.decode), ("the device", rates.device), ("the disk takes", rates.disk))
    known = ", ".join(f"{name} {format_rate(rate)}" for name, rate in parts if rate is not None)
    if rates.bound is None:
        return f"unknown, because not every stage was measured ({known or 'none'}; clips/s)"
    return f"{rates.bound}: {known} clips/s. {_advice(rates, precision, smaller)}"


def _advice(rates: Rates, precision: str, smaller: str | None) -> str:
    if rates.bound == "disk":
        return f"Fewer bytes help: {smaller}, or fewer --layers" if smaller else "Fewer --layers help, or another disk"
    if rates.bound == "decode":
        return "Every core decodes: more of them help, or more machines (--part 1/2, --scheduler)"
    if rates.shares_cores:
        return "A GPU helps, or more machines (--part 1/2, --scheduler)"
    if precision == EXACT:
        return "--precision bfloat16 may be faster; its error is then measured"
    return "Nothing but a faster device helps, or a second one (--workers 2)"


def codec_for(rates: Rates, sustained: float, codecs: Mapping[str, int], chosen: str) -> str | None:
    """The codec that the disk takes as fast as clips come and that keeps most, or else the smallest one, in words.

    ``codecs`` are bytes of a clip by name, ``sustained`` the disk's bytes/s; None where ``chosen`` is the smallest.
    """
    computing = replace(rates, disk=None).expected or 0.0
    smaller = sorted(
        # klt0 holds little more than means: it is there for comparison
        (name for name, nbytes in codecs.items() if nbytes < codecs[chosen] and name != "klt0"),
        key=lambda name: -codecs[name],
    )
    if not smaller:
        return None
    best = next((name for name in smaller if sustained / codecs[name] >= computing), smaller[-1])
    return f"--codec {best} lets the disk take {format_rate(sustained / codecs[best])} clips/s"


def describe_writes(speed: WriteSpeed, store_bytes: int) -> str:
    """What a test of the disk found, and whether it could have found more."""
    rate, written = f"{format_bytes(speed.sustained)}/s", format_bytes(speed.written)
    if speed.fell_from is not None and speed.fell_after is not None:
        return (
            f"sustained {rate}: fell from {format_bytes(speed.fell_from)}/s after {format_bytes(speed.fell_after)} "
            f"({written} were written)"
        )
    if speed.written >= store_bytes:
        return f"{rate}, steady over {written}, which is as much as the store"
    more = min(store_bytes, 10 * speed.written)
    return (
        f"{rate}; too little was written ({written}) to see whether a fast cache is in front of the disk: "
        f"--disk-test {format_bytes(more).replace(' ', '')} writes more"
    )
