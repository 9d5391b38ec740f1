"""Modules without storage: for their shapes and the number of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# what PyTorch's and timm's initial values are made by
_FILLING = frozenset(
    {
        *("normal_", "uniform_", "trunc_normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"),
        *("constant_", "ones_", "zeros_", "xavier_uniform_", "kaiming_uniform_", "kaiming_normal_"),
    }
)


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules on the meta device and leave out the initial values of their weights, which have none there.

    PyTorch would work out the shape of every step of them in Python: most of the time that such a module takes.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves tensors on the meta device as they are where their values would be set."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
