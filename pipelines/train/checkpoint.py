"""Checkpoints: named tensors and a JSON state in one safetensors file, so that both change at the same instant.

The optimiser's state is flattened into tensors and plain numbers. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.run_folder import CHECKPOINT_FORMAT
from mettle_cache.store.writing.durable import write_atomically


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
    """Replace ``path`` by a file with these tensors and this JSON state, atomically and durably.

    Raises
    ------
    NoRoomError
        The disk is full; the file that was there is untouched.
    StoreError
        The disk refuses for another reason.
    """
    write_tensors(path, tensors, CHECKPOINT_FORMAT, state)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, description: Mapping[str, object]) -> None:
    """Replace ``path`` by a safetensors file with a JSON description under the key ``kind``; see save_checkpoint."""
    # one entry: safetensors writes several in an order that changes from process to process
    metadata = {kind: json.dumps(description)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(partial: Path) -> None:
        # safetensors makes files that only their owner may read: take the mode that any other file gets
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        try:
            save_file(plain, partial, metadata=metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        partial.chmod(mode)

    write_atomically(path, write, needed=sum(tensor.nbytes for tensor in plain.values()))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint.

    Raises
    ------
    RunError
        The file is missing, damaged, or no checkpoint of ours.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no checkpoint", hint="the run has not finished an epoch: train it first")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        if CHECKPOINT_FORMAT not in metadata:
            raise RunError(f"{path}: this is not a checkpoint of format {CHECKPOINT_FORMAT}")
        state = json.loads(metadata[CHECKPOINT_FORMAT])
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(
            f"{path}: the checkpoint is damaged ({error})", hint="train again into another folder"
        ) from error
    return tensors, state


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as tensors named ``index/key`` and its parameter groups as plain values."""
    state = optimizer.state_dict()
    tensors = {f"{index}/{key}": value for index, slots in state["state"].items() for key, value in slots.items()}
    return tensors, {"param_groups": state["param_groups"]}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """The inverse of :func:`flatten_optimizer`, bit for bit."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Load weights strictly.

    Raises
    ------
    RunError
        Names or shapes differ from the model's, or numbers are not finite; the first ones are listed.
    """
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or [
        name for name in expected if expected[name].shape != tensors[name].shape
    ]
    if wrong:
        raise RunError(
            f"{where}: the weights are not those of this run's model: {', '.join(wrong[:4])}",
            hint="the run folder's config.json and checkpoint belong to different runs",
        )
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise RunError(
            f"{where}: weights that are not finite: {', '.join(broken[:4])}",
            hint="train again with a lower train.learning_rate",
        )
    model.load_state_dict(tensors, strict=True)


def _as_os_error(error: SafetensorError) -> OSError:
    """What the operating system said, which safetensors hands on as text only."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put ``prefix/`` before every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix/``, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
