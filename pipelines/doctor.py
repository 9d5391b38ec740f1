"""Examining a machine: what it has for the two stages, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import MettleError

if TYPE_CHECKING:
    from mettle_cache.datasets import DatasetInfo

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "zarr", "numcodecs", "dask", "av", "pyarrow")
MEDIA_CODECS = ("h264", "hevc", "mpeg4", "vp9", "av1", "aac", "mp3", "opus", "pcm_s16le")
# a consumer GPU must hold the heads, their optimiser and one batch; see README
ENOUGH_ROOM = 50e9
# one of them is there where a driver offers GPUs: NVIDIA's, AMD's, either under Windows
GPU_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
CPU_ONLY = "CPU only: both stages run, extraction of a large backbone takes days rather than hours"


@dataclass(frozen=True)
class Finding:
    """The state of one topic. ``advice`` is empty where there is nothing to do."""

    topic: str
    found: str
    ok: bool = True
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found, and the command to run next."""

    findings: tuple[Finding, ...]
    next_command: str

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "ok": self.ok}


def examine(cache: Path = Path("cache"), *, measure: bool = True) -> Diagnosis:
    """Look at this machine; ``measure`` includes a read test of the disk under ``cache``."""
    data = _examine("datasets", examine_datasets)
    findings = [
        *_examine("software", examine_software),
        *_examine("device", examine_device),
        *_examine("cores", examine_memory),
        *_examine("products", examine_products),
        *_examine("disk", lambda: examine_disk(cache, measure=measure)),
        *_examine("decoders", examine_decoders),
        *_examine("weights", examine_weights),
        *data,
    ]
    # a topic reads "dataset NAME", as the option of mettle plan does
    ready = [finding.topic for finding in data if finding.ok and finding.topic.startswith("dataset ")]
    return Diagnosis(tuple(findings), f"mettle plan --{ready[0]}" if ready else "mettle demo")


def _examine(topic: str, look: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """What ``look`` finds; its own failure is a finding too: a package that is broken must not hide the rest."""
    try:
        found = look()
    except MettleError as error:
        return [Finding(topic, error.message, ok=False, advice=error.hint or "")]
    except Exception as error:  # noqa: BLE001 - a broken installation may fail in any way
        advice = "repair the installation: make install"
        return [Finding(topic, f"cannot be examined: {type(error).__name__}: {error}", ok=False, advice=advice)]
    return [found] if isinstance(found, Finding) else found


def examine_software() -> list[Finding]:
    """The interpreter and the packages whose versions matter."""
    findings = [Finding("python", platform.python_version())]
    for name in PACKAGES:
        try:
            findings.append(Finding(name, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "not installed", ok=False, advice="make install"))
    return findings


def examine_device() -> Finding:
    """The GPU that both stages would use, or the CPU."""
    if sys.platform == "linux" and not any(file.exists() for file in GPU_FILES):
        return Finding("device", CPU_ONLY)
    # only PyTorch says whether it can use what is there; it takes seconds to load
    import torch

    if not torch.cuda.is_available():
        return Finding("device", CPU_ONLY)
    properties = torch.cuda.get_device_properties(0)
    return Finding("device", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")


def examine_memory() -> Finding:
    """Cores and memory."""
    import psutil

    from mettle_cache.devices import available_cores

    memory = psutil.virtual_memory()
    return Finding(
        "cores", f"{available_cores()}, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB memory free"
    )


def examine_products() -> Finding:
    """How the CPU multiplies codes: by tiles of bytes, or in float32."""
    from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles

    kind = "tiles of bytes (AMX)" if has_byte_tiles() else "float32: no tiles of bytes (AMX) on this processor"
    return Finding("products", kind)


def examine_disk(cache: Path, *, measure: bool) -> Finding:
    """Room and read speed of the disk that will hold the stores."""
    from mettle_cache.store.reading.disk_speed import measure_read_speed
    from mettle_cache.store.writing.durable import disk_folder, free_bytes

    free = free_bytes(cache)
    state = f"{free / 1e9:.0f} GB free"
    if measure:
        state += f", reads {measure_read_speed(disk_folder(cache)) / 1e9:.2f} GB/s"
    advice = "mettle plan shows which codec and layers fit" if free < ENOUGH_ROOM else ""
    return Finding("disk", state, advice=advice)


def examine_decoders() -> Finding:
    """What PyAV's FFmpeg can decode."""
    import av

    missing = [name for name in MEDIA_CODECS if name not in av.codecs_available]
    if missing:
        return Finding(
            "decoders", f"missing: {', '.join(missing)}", ok=False, advice="pip install --force-reinstall av"
        )
    return Finding("decoders", ", ".join(MEDIA_CODECS))


def examine_weights() -> list[Finding]:
    """Weights of the published backbones: found here, or where they come from."""
    from mettle_cache.backbones import list_backbones

    findings = []
    infos, broken = list_backbones()
    for info in infos:
        found = info.weights_found
        if found is not None and os.path.exists(found) and not os.path.getsize(found):
            found = f"{found} is empty"
        elif found is not None:
            findings.append(Finding(f"weights {info.name}", found))
            continue
        advice = f"{info.weights}; or give {info.name}=FILE, or {info.name}=random for a rehearsal"
        findings.append(Finding(f"weights {info.name}", found or "not here", ok=False, advice=advice))
    findings += [Finding(f"backbone {name}", reason, ok=False) for name, reason in broken.items()]
    return findings


def examine_datasets() -> list[Finding]:
    """Data sets in their default places: what is there, and whether it can be read."""
    from mettle_cache.datasets import list_datasets

    infos, broken = list_datasets()
    findings = [_examine_dataset(info) for info in infos]
    return [*findings, *(Finding(f"dataset {name}", reason, ok=False) for name, reason in broken.items())]


def _examine_dataset(info: DatasetInfo) -> Finding:
    """Whether its annotations can be read, and how many clips lack media."""
    from mettle_cache.datasets import open_dataset

    topic, root = f"dataset {info.name}", info.default_root
    layouts = f"put it there, or name its folder with --root; layouts: {'; '.join(info.layouts)}"
    if not root.exists():
        return Finding(topic, f"{root} does not exist", ok=False, advice=layouts)
    try:
        dataset = open_dataset(info.name)
        missing = len({problem.clip for problem in dataset.problems()})
    except (MettleError, OSError) as error:
        empty = root.is_dir() and os.access(root, os.R_OK) and not any(root.iterdir())
        found = f"{root} is an empty folder" if empty else f"{root}: {str(error).splitlines()[0]}"
        return Finding(topic, found, ok=False, advice=layouts)
    found = f"{root}: {len(dataset.clips)} clips"
    if not missing:
        return Finding(topic, found)
    return Finding(
        topic,
        f"{found}, media of {missing} are missing or unreadable",
        ok=False,
        advice=f"see which: mettle extract --dataset {info.name}",
    )
