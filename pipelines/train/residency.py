"""Where the tokens of a training stay: on the device, in host memory, or on the disk, which every epoch reads again.

They are filled by the first epoch that reads them, and shared by all passes that read the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.memory import available_memory
from mettle_cache.pipelines.report.units import format_bytes, format_seconds
from mettle_cache.pipelines.train.config import Resident
from mettle_cache.pipelines.train.sample_loader import SampleLoader
from mettle_cache.store.reading.resident import ResidentTokens

SHARE = 0.8
"""Of the memory that is free, what training and tokens that stay may take where nobody says how much."""
CPU = torch.device("cpu")
PLACES: Mapping[str, str] = {"device": "on the device", "memory": "in host memory", "disk": "on the disk"}


@dataclass(frozen=True, kw_only=True)
class Residence:
    """Where tokens stay, and the bytes of the chosen ``layers`` of ``clips``; ``reason`` is why not nearer."""

    tier: Resident
    nbytes: int
    layers: int
    clips: int
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def describe(self, epochs: int) -> str:
        """Where tokens are, and what that gives in so many epochs."""
        tokens = f"{format_bytes(self.nbytes)} of {self.layers} layers and {self.clips:,} clips"
        every = f"in each of {epochs} epochs" if epochs > 1 else "in the one epoch"
        if self.tier == "disk":
            reason = f", because {self.reason}" if self.reason else ""
            return f"{tokens} are read from the disk {every}{reason}"
        gain = f": the disk is read once, and not {every}" if epochs > 1 else ""
        return f"{tokens} stay {PLACES[self.tier]}{gain}"


@dataclass(frozen=True)
class Room:
    """What tokens may take, and in words what of."""

    nbytes: int
    words: str


def room_for_tokens(device: torch.device, *, limit: int | None, training: int) -> Room:
    """What of a device's memory, or of the host's for a CPU, tokens may take beside ``training`` bytes.

    ``limit`` is what a user allows; None for :data:`SHARE` of what is free.
    """
    free = available_memory(device)
    allowed = int(SHARE * free) if limit is None else min(limit, free)
    words = f"of {format_bytes(free)} that are free" if limit is None else f"of --memory {format_bytes(limit)}"
    less = f", less {format_bytes(training)} for training" if training else ""
    return Room(max(0, allowed - training), f"{format_bytes(max(0, allowed - training))} ({words}{less})")


def room_in(tier: str, device: torch.device, *, limit: int | None, training: int) -> Room:
    """As :func:`room_for_tokens`, in the memory of a tier; ``limit`` is the host's, and ``device`` is what trains."""
    on_gpu = device.type != "cpu"
    if tier == "device" and on_gpu:
        return room_for_tokens(device, limit=None, training=training)
    return room_for_tokens(CPU, limit=limit, training=0 if on_gpu else training)


def tiers_to_try(asked: Resident, device: torch.device) -> tuple[Resident, ...]:
    """Those of memory in their order, the nearest first: on a CPU its memory is the device's."""
    if asked == "auto":
        return ("memory",) if device.type == "cpu" else ("device", "memory")
    return () if asked == "disk" else (asked,)


def foretell_residence(
    nbytes: int, device: torch.device, *, training: int, disk_speed: float | None
) -> tuple[Resident, str]:
    """Where ``nbytes`` of tokens would stay on this machine, and what that gives.

    ``disk_speed`` is in bytes a second, None where nobody measured it.
    """
    seconds = f", which takes {format_seconds(nbytes / disk_speed)}" if disk_speed else ""
    reasons = []
    for tier in tiers_to_try("auto", device):
        room = room_in(tier, device, limit=None, training=training)
        if nbytes <= room.nbytes:
            words = f"{format_bytes(nbytes)} stay {PLACES[tier]}, which has room for {room.words}"
            return tier, f"{words}: the first epoch alone reads the disk{seconds}"
        reasons.append(f"{PLACES[tier]} they may take {room.words}")
    return "disk", f"{format_bytes(nbytes)} are read in every epoch{seconds}: {'; '.join(reasons)}"


class Residency:
    """What a user asks for, and what stays, for all passes of a command.

    ``memory`` bounds in bytes what tokens take of the host's memory, with training where that is on the CPU.
    """

    def __init__(self, asked: Resident = "auto", memory: int | None = None) -> None:
        self.asked = asked
        self.memory = memory
        self._kept: list[ResidentTokens] = []
        self._key: tuple[object, ...] = ()

    def settle(self, loader: SampleLoader, rows: Sequence[int], *, training: int) -> Residence | None:
        """Give ``loader`` room for the tokens of ``rows``, if there is any; None where tokens cannot stay anywhere.

        ``training`` are the bytes that training itself is foretold to take.

        Raises
        ------
        UsageError
            The tier that was asked for has no such room.
        """
        if not loader.keepers():
            return None
        clips = loader.clips_of(rows)
        facts: dict[str, Any] = {"nbytes": loader.resident_bytes(len(clips)), "layers": loader.layers}
        facts["clips"] = len(clips)
        reasons = []
        for tier in tiers_to_try(self.asked, loader.device):
            reason = self._try(tier, loader, clips, facts["nbytes"], training)
            if reason is None:
                loader.keep(self._kept)
                return Residence(tier=tier, **facts)
            reasons.append(reason)
        if self.asked not in ("auto", "disk"):
            hint = self._what_fits(loader, facts["nbytes"], training)
            raise UsageError(f"--resident {self.asked}: {'; '.join(reasons)}", hint=hint)
        return Residence(tier="disk", **facts, reason="; ".join(reasons))

    def _try(
        self, tier: Resident, loader: SampleLoader, clips: Sequence[int], nbytes: int, training: int
    ) -> str | None:
        """Make room in a tier; why there is none."""
        key = (tier, tuple((store.path, tuple(names)) for store, names in loader.keepers()), tuple(clips))
        if key == self._key:
            return None
        self._kept, self._key = [], ()
        room = room_in(tier, loader.device, limit=self.memory, training=training)
        if nbytes > room.nbytes:
            return f"{format_bytes(nbytes)} of tokens do not fit {PLACES[tier]}: they may take {room.words}"
        device = loader.device if tier == "device" else None
        try:
            self._kept = [store.keep(clips, names, device) for store, names in loader.keepers()]
        except (OSError, MemoryError, torch.OutOfMemoryError):
            return f"there were no {format_bytes(nbytes)} {PLACES[tier]} after all"
        self._key = key
        return None

    def _what_fits(self, loader: SampleLoader, nbytes: int, training: int) -> str:
        room = room_in(self.asked, loader.device, limit=self.memory, training=training).nbytes
        part = f"{100 * room // max(1, nbytes)} % of them would fit: choose" if 0 < room < nbytes else "choose"
        return (
            f"{part} fewer layers with --set layers=..., or a store in a smaller codec (mettle recode); "
            "--resident disk takes none, and reads them in every epoch"
        )
