"""Random weights from a seed: the same bits every time, the caller's random state untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

# Swin-V2's residual norms, the last BatchNorm of a residual branch and layer scales start at (almost) zero, so that
# training begins at the identity: every block of a stage would give the same tokens. With 0.2 each block acts, and 33
# ResNeXt blocks grow their variance by 1.04^33 = 3.6 only, well inside float16.
BRANCH_GAIN = 0.2
NEGLIGIBLE = 1e-3


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` on the CPU; the caller's random state is what it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_seeded(build: Callable[[], M], seed: int) -> M:
    """``build()`` with parameters drawn from ``seed``; see :data:`BRANCH_GAIN` for what differs from its own values."""
    with seeded(seed):
        module = build()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_gain = parameter.ndim == 1 and not name.endswith("bias")
            if is_gain and bool((parameter.abs() <= NEGLIGIBLE).all()):
                parameter.fill_(BRANCH_GAIN)
    return module
