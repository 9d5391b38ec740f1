"""The companions that a run's method reads, in the run's folder: the head is built again without the store's.

An exported head holds them as tensors of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mettle_cache.companions import Companion, CompanionFile, HeldCompanion, companion_bytes
from mettle_cache.pipelines.train.checkpoint import under_prefix, with_prefix
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import write_file

COMPANIONS = "companions"
# before the name that a companion has beside a store
PREFIX = "companion-"


def companions_read(model: nn.Module) -> tuple[str, ...]:
    """The names of the companions that a head's method reads: of the whole, or of a part of it for each modality."""
    found = [name for module in model.modules() for name in getattr(module, "companions", ())]
    return tuple(dict.fromkeys(found))


def keep_companions(folder: RunFolder, model: nn.Module, companions: Mapping[str, Companion]) -> None:
    """Copy the companions that a head reads into a run that has none yet; nothing for most methods."""
    lacking = [name for name in companions_read(model) if not folder.has(folder.path / f"{PREFIX}{name}")]
    files: dict[Path, Callable[[Path], None]] = {}
    for name in lacking:
        content = companion_bytes(companions[name].load(), companions[name].description)
        files[folder.path / f"{PREFIX}{name}"] = partial(write_file, data=content)
    if files:
        folder.commit(files)


def kept_companions(folder: RunFolder) -> dict[str, CompanionFile]:
    """The companions that a run keeps, by the names that they have beside a store.

    Raises
    ------
    RunError
        One of them is not what the run wrote.
    """
    paths = kept_companion_paths(folder)
    key = folder.read_config().store.key_digest if paths else ""
    return {path.name.removeprefix(PREFIX): CompanionFile(folder.check(path), key) for path in paths}


def kept_companion_paths(folder: RunFolder) -> list[Path]:
    """Where a run keeps its companions; none of them is read."""
    if not folder.config.exists():
        return []
    return [folder.path / name for name in folder.read_config().files if name.startswith(PREFIX)]


def companion_tensors(companions: Mapping[str, Companion]) -> dict[str, Tensor]:
    """The tensors of companions with names of their own: ``companions/late-visual.safetensors/qkv_weight``."""
    tensors: dict[str, Tensor] = {}
    for name, companion in companions.items():
        tensors |= with_prefix(f"{COMPANIONS}/{name}", companion.load())
    return tensors


def companions_of_tensors(
    descriptions: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> dict[str, HeldCompanion]:
    """The inverse of :func:`companion_tensors`, with the companions' descriptions by name."""
    return {
        name: HeldCompanion(description, under_prefix(f"{COMPANIONS}/{name}", tensors))
        for name, description in descriptions.items()
    }
