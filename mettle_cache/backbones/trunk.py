"""A frozen network: its blocks tapped with forward hooks, its weights' digest, or weights drawn from a seed."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mettle_cache.devices import fix_summation_order, seeded
from mettle_cache.errors import UsageError

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _Pass(threading.local):
    """What the hooks collect: passes run at once in several threads, each with tokens of its own."""

    tokens: dict[int, Tensor] | None = None


class FrozenTrunk(nn.Module):
    """Runs a network in inference mode and collects the output of every tap.

    Pinned to eval mode under any parent's ``train()``: batch statistics, stochastic depth and dropout would make
    another function of it. Its outputs are inference tensors: clone them to feed them to autograd.

    Parameters
    ----------
    network
        Any module; its parameters stop requiring gradients.
    taps
        Submodules of ``network``, each called once in a forward pass. Their outputs are tokens.
    layout
        What the taps give: ``NLC``, ``NHWC`` or ``NCHW``.
    precision
        ``float32``, or ``bfloat16``/``float16`` for autocast. Tokens are float32 in any case.
    """

    def __init__(self, network: nn.Module, taps: Sequence[nn.Module], layout: str, precision: str = "float32") -> None:
        super().__init__()
        fix_summation_order()
        self.network: Any = network.requires_grad_(False)
        self.taps = tuple(taps)
        self.layout = layout
        self.precision = precision
        self._pass = _Pass()
        for index, tap in enumerate(self.taps):
            tap.register_forward_hook(self._keep(index))
        self.eval()

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Stay in eval mode, whatever a parent asks for."""
        super().train(False)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @cached_property
    def digest(self) -> str:
        """Of the weights in use, which never change."""
        return weights_digest(self.network)

    def forward(self, x: Tensor, run: Callable[[Tensor], object] | None = None) -> list[Tensor]:
        """``run(x)``, or the network's ``forward_features(x)``, to the tokens of every tap, each [B, N, D] float32.

        Raises
        ------
        UsageError
            float16 does not hold this network's values.
        """
        tokens = self._pass.tokens = {}
        try:
            with torch.inference_mode(), reproducible(x.device, self.precision):
                (run or self.network.forward_features)(x)
        finally:
            self._pass.tokens = None
        outputs = [tokens[index] for index in range(len(self.taps))]
        if self.precision == "float16":
            self._check_finite(outputs)
        return outputs

    def at(self, precision: str) -> FrozenTrunk:
        """The same network with its weights and taps, run in another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def _check_finite(self, outputs: Sequence[Tensor]) -> None:
        # one answer for all taps: each that is asked for makes the host wait for the device
        finite = torch.stack([output.isfinite().all() for output in outputs]).tolist()
        if not all(finite):
            raise UsageError(
                f"float16 overflows in this backbone, first in stored block {finite.index(False) + 1} of {len(finite)}",
                hint="--precision bfloat16 has the range of float32; or use float32",
            )

    def _keep(self, index: int) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if self._pass.tokens is not None:
                self._pass.tokens[index] = flatten_tokens(output, self.layout)

        return hook


def flatten_tokens(output: Tensor, layout: str) -> Tensor:
    """A block's output to [B, N, D] float32, tokens in row-major order of the grid."""
    if layout == "NHWC":
        output = output.flatten(1, 2)
    elif layout == "NCHW":
        output = output.flatten(2).transpose(1, 2)
    return output.float().contiguous()


@contextmanager
def reproducible(device: torch.device, precision: str) -> Iterator[None]:
    """The same input gives the same bits: no TF32, no benchmarked kernels; autocast exactly as ``precision`` says."""
    dtype = AUTOCAST.get(precision)
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            )
        if device.type != "meta":
            stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        yield


def weights_digest(module: nn.Module) -> str:
    """blake2b, as 32 hex characters, over name, type, shape and bytes of every tensor in use, in the order of names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def check_batch(name: str, x: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a batch that is not float32 [B, *shape] for one of the shapes, or that is empty.

    Raises
    ------
    UsageError
        Anything else.
    """
    if x.dtype != torch.float32 or tuple(x.shape[1:]) not in shapes or not len(x):
        expected = " or ".join(f"[B, {', '.join(map(str, shape))}]" for shape in shapes)
        raise UsageError(
            f"backbone '{name}' takes float32 {expected}, not {str(x.dtype).removeprefix('torch.')} {list(x.shape)}",
            hint="pass what its preprocess() returns",
        )


def release(version: str) -> str:
    """A version without its build: ``2.11.0+cpu`` and ``2.11.0+cu128`` are one release."""
    return str(version).partition("+")[0]


M = TypeVar("M", bound=nn.Module)

# Swin-V2's residual norms, the last BatchNorm of a residual branch and layer scales start at (almost) zero, so that
# training begins at the identity: every block of a stage would give the same tokens. With 0.2 each block acts, and 33
# ResNeXt blocks grow their variance by 1.04^33 = 3.6 only, well inside float16.
BRANCH_GAIN = 0.2
NEGLIGIBLE = 1e-3


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
