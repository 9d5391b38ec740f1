"""The pilot of the ``klt`` codecs: which frames it looks at, and what their statistics become.

From about 500 frames, one of each of as many clips as there are, it sums the second moment of each layer's normalised
tokens less their frame's mean. Eigenvectors are the basis; variances decide who gets how many bits; a component's step
is the best one for a Gaussian of its variance. Memory: one float64 matrix of P D x P D a layer, no tokens.

Shapes: N tokens, D channels, P tokens of a cell, R rows of a frame (N / P), K columns of the basis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mettle_cache.devices import one_thread
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import StaticArrays
from mettle_cache.store.format.klt import GROUP, basis_columns, square
from mettle_cache.store.format.klt_encoding import rows_and_mean

if TYPE_CHECKING:
    from mettle_cache.store.format.klt import KltCodec

FRAMES = 500
# bits of a component: step and mean squared error of the best uniform quantiser of 2^bits levels for a unit Gaussian
GAUSSIAN = {
    0: (0.0, 1.0),
    1: (1.595769, 0.363380),
    2: (0.995687, 0.118846),
    4: (0.335201, 0.0115429),
    8: (0.0307624, 8.76862e-05),
}
# a component that never varied is not divided by zero
_LEAST_STEP = 2.0**-20


class KltPilot:
    """See :class:`mettle_cache.store.format.codecs.Pilot`."""

    def __init__(self, layers: Sequence[LayerSpec], codec: KltCodec) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._codec = codec
        self._moments: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {layer.name: 0 for layer in layers}

    @property
    def wanted(self) -> int:
        return FRAMES if self._codec.rate else 0

    def choose(self, clips: Sequence[str], segments: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Clips in the order of a hash of their ids. The first pass takes as many frames of each as make up
        :attr:`wanted`, so that all clips take part; then one more of each, in case that some could not be shown."""
        hashes = [int.from_bytes(blake2b(clip.encode(), digest_size=8).digest(), "big") for clip in clips]
        order = sorted(range(len(clips)), key=lambda index: (hashes[index], clips[index]))
        stride = _stride(segments)

        def frames(index: int, numbers: range) -> tuple[int, ...]:
            return tuple((hashes[index] + number * stride) % segments for number in numbers)

        shown = {}
        for place, index in enumerate(order):
            each, more = divmod(self.wanted, len(order))
            shown[index] = min(segments, max(1, each + (place < more)))
            yield index, frames(index, range(shown[index]))
        for _ in range(segments):
            for index in order:
                if shown[index] < segments:
                    yield index, frames(index, range(shown[index], shown[index] + 1))
                    shown[index] += 1

    def add(self, tokens: Mapping[str, Tensor]) -> None:
        for name, x in tokens.items():
            layer = self._layers[name]
            for frame in x:
                with one_thread(frame.device):
                    rows = rows_and_mean(frame, layer, self._codec)[0].double()
                    moment = self._moments.setdefault(name, rows.new_zeros(square(layer), square(layer)))
                    moment.addmm_(rows.mT, rows)
                self._rows[name] += len(rows)

    def finish(self) -> StaticArrays:
        return {name: self._static_arrays(layer) for name, layer in self._layers.items()}

    def _static_arrays(self, layer: LayerSpec) -> dict[str, Tensor]:
        size, columns = square(layer), basis_columns(layer, self._codec.rate)
        basis = torch.zeros(size, columns, dtype=torch.float16)
        bits, step = torch.zeros(columns, dtype=torch.uint8), torch.zeros(columns)
        if not self._codec.rate:
            return {"basis": basis, "step": step, "bits": bits}
        covariance = self._covariance(layer)
        vectors = principal_components(covariance).to(torch.float16)
        basis[:, :size] = vectors
        # of the basis as it is stored
        variances = torch.zeros(columns, dtype=torch.float64)
        with one_thread(covariance.device):
            variances[:size] = ((covariance @ vectors.double()) * vectors.double()).sum(0).clamp(min=0)
        groups = allocate_bits(variances.numpy(), self._codec.row_bytes(layer))
        bits[:] = torch.from_numpy(np.repeat(groups, GROUP))
        kept = bits > 0
        basis[:, ~kept] = 0
        best = torch.tensor([GAUSSIAN.get(number, GAUSSIAN[0])[0] for number in range(9)], dtype=torch.float64)
        step[kept] = (best[bits.long()] * variances.sqrt())[kept].clamp(min=_LEAST_STEP).float()
        return {"basis": basis, "step": step, "bits": bits}

    def _covariance(self, layer: LayerSpec) -> Tensor:
        """``[P D, P D]``, as if one more row had been seen, of white tokens: no direction is without variance."""
        size, rows = square(layer), self._rows[layer.name]
        moment = self._moments.get(layer.name, torch.zeros(1, 1)).cpu().expand(size, size)
        power = float(moment.diagonal().sum()) / max(1, rows * size)
        white = torch.eye(size, dtype=torch.float64) * (power or 1.0)
        return (moment + white) / (rows + 1)


def principal_components(covariance: Tensor) -> Tensor:
    """Eigenvectors ``[size, size]`` as columns, those of the largest eigenvalues first; their largest entry positive.

    The same bytes for the same matrix on the same kind of processor, whatever the number of threads.
    """
    with one_thread(covariance.device):
        vectors = torch.linalg.eigh(covariance)[1].flip(-1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    signed: Tensor = vectors * torch.where(largest < 0, -1.0, 1.0)
    return signed


def allocate_bits(variances: np.ndarray, nbytes: int) -> np.ndarray:
    """Bits ``[G]`` of groups of eight components, at most ``nbytes`` in all, at the least squared error.

    A group of b bits takes b bytes. Up to two bits a component there is always a choice that fills all bytes; beyond
    that the best one may leave some of them zero.

    Parameters
    ----------
    variances
        Of ``8 G`` components, in falling order.
    """
    energy = variances.reshape(-1, GROUP).sum(-1)
    # errors[c]: the least of the groups so far in exactly c bytes
    errors = np.full(nbytes + 1, np.inf)
    errors[0] = 0.0
    choices = np.zeros((len(energy), nbytes + 1), np.uint8)
    for group, power in enumerate(energy):
        best = np.full(nbytes + 1, np.inf)
        for bits, (_, error) in GAUSSIAN.items():
            if bits > nbytes:
                continue
            candidate = np.full(nbytes + 1, np.inf)
            candidate[bits:] = errors[: nbytes + 1 - bits] + power * error
            choices[group][candidate < best] = bits
            best = np.minimum(best, candidate)
        errors = best
    # of equal errors the one with the most bytes
    left = nbytes - int(errors[::-1].argmin())
    allocated = np.zeros(len(energy), np.uint8)
    for group in reversed(range(len(energy))):
        allocated[group] = choices[group][left]
        left -= int(allocated[group])
    # equal groups may come in any order
    return np.sort(allocated)[::-1].copy()


def _stride(segments: int) -> int:
    """From one frame of a clip to the next: about 0.38 of the clip, and all frames before one comes again."""
    return next(
        stride for stride in range(max(1, round(0.38 * segments)), segments + 2) if math.gcd(stride, segments) == 1
    )
