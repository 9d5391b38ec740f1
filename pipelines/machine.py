"""A description of the machine that something ran on, without the names of the machine or its owner."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from mettle_cache.devices import available_cores, choose_device
from mettle_cache.pipelines.report.units import format_bytes

LIBRARIES = ("torch", "timm", "numpy", "fastcrc")


def describe_machine(folder: Path, device: str | None = None) -> dict[str, str]:
    """The machine by topic; the disk is the one that ``folder`` is on."""
    facts = {
        "processor": f"{cpu_model()}, {available_cores()} cores",
        "memory": format_bytes(psutil.virtual_memory().total),
        "disk": disk_kind(folder),
        "system": f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}",
        "libraries": ", ".join(f"{name} {version_of(name)}" for name in LIBRARIES),
    }
    chosen = choose_device(device)
    if chosen.type == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(chosen)
        facts["GPU"] = f"{properties.name}, {format_bytes(properties.total_memory)}, CUDA {torch.version.cuda}"
    return facts


def version_of(package: str) -> str:
    """The installed version, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and the instructions that matter for small integers and bfloat16."""
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    fields = dict(_cpu_field(line) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    known = [
        name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if name in flags
    ]
    model = fields.get("model name", platform.machine())
    return f"{model} ({', '.join(known)})" if known else model


def _cpu_field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def disk_kind(folder: Path) -> str:
    """File system and kind of device, as far as the system says."""
    best = max(
        (part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)),
        key=lambda part: len(part.mountpoint),
        default=None,
    )
    filesystem = best.fstype if best else "unknown file system"
    return f"{filesystem} on {_device_kind(os.stat(folder).st_dev)}"


def _device_kind(number: int) -> str:
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not device.exists():
        return "no block device"
    device = device.resolve()
    disk = device if (device / "queue").is_dir() else device.parent
    if disk.name.startswith(("vd", "xvd")):
        return "a virtual disk"
    if disk.name.startswith("nvme"):
        return "NVMe"
    rotational = disk / "queue" / "rotational"
    spins = rotational.is_file() and rotational.read_text().strip() == "1"
    return "a rotating disk" if spins else "a solid-state disk"
