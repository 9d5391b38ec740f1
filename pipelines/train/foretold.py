"""The memory that training is foretold to take, before a step has run."""

from __future__ import annotations

from collections.abc import Sequence

HELD, GRADIENTS = 12, 4
"""Bytes of a weight in single precision: itself and Adam's two moments all the time, its gradient within a step."""
WEIGHT_BYTES = HELD + GRADIENTS
BATCHES = 2
"""One in use, and one that is being read."""


def training_bytes(parameters: Sequence[int], batch_bytes: int) -> int:
    """Of heads with so many weights, which take each batch in turn; the libraries come on top, and what a step keeps.

    ``batch_bytes`` is a batch as it is stored.
    """
    return HELD * sum(parameters) + GRADIENTS * max(parameters, default=0) + BATCHES * batch_bytes
