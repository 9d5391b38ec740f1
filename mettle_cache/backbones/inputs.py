"""Checks on what a backbone is given, and the names of the versions that it runs with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mettle_cache.errors import UsageError


def check_batch(name: str, x: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a batch that is not float32 [B, *shape] for one of the shapes, or that is empty.

    Raises
    ------
    UsageError
        Anything else.
    """
    if x.dtype != torch.float32 or tuple(x.shape[1:]) not in shapes or not len(x):
        wanted = " or ".join(f"[B, {', '.join(map(str, shape))}]" for shape in shapes)
        raise UsageError(
            f"backbone '{name}' takes float32 {wanted}, not {str(x.dtype).removeprefix('torch.')} {list(x.shape)}",
            hint="pass what its preprocess() returns",
        )


def release(version: str) -> str:
    """A version without its build: ``2.11.0+cpu`` and ``2.11.0+cu128`` are one release."""
    return str(version).partition("+")[0]
