"""How much memory the media of one clip may take while they are decoded.

A few kilobytes can ask for gigabytes: a blank picture of 8,000 squared, an hour of silence. Every decoder therefore
asks before it takes memory that follows from what a file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mettle_cache.datasets.media.fault import MediaFileError

CLIP_BYTES = 10**9
"""Bytes that one clip may take unless its user says otherwise."""


class Allowance:
    """``limit`` bytes for one clip; what is taken stays taken until the clip is done."""

    def __init__(self, limit: int = CLIP_BYTES) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, path: Path, nbytes: int) -> None:
        """Ask for ``nbytes`` to decode ``path``. Raises MediaFileError when they are more than are left."""
        if self.taken + nbytes > self.limit:
            raise MediaFileError(
                path,
                f"takes {(self.taken + nbytes) / 1e9:.1f} GB of memory to decode: "
                f"more than the {self.limit / 1e9:.1f} GB that a clip may take",
                hint="give it more with --memory, or make the file smaller",
            )
        self.taken += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return what was taken for a while only."""
        self.taken -= nbytes


_current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowed(allowance: Allowance) -> Iterator[Allowance]:
    """Let everything that is decoded inside take from ``allowance``; inside another one, that one goes on."""
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    token = _current.set(allowance)
    try:
        yield allowance
    finally:
        _current.reset(token)


def take(path: Path, nbytes: int) -> None:
    """Ask the allowance of the clip that is being decoded, or a new one for this alone. Raises MediaFileError."""
    (_current.get() or Allowance()).take(path, nbytes)


def clip_limit() -> int:
    """Bytes that the clip that is being decoded may take in all."""
    return (_current.get() or Allowance()).limit


@contextmanager
def lent(path: Path, nbytes: int) -> Iterator[None]:
    """Like :func:`take` for memory that is given back at the end. Raises MediaFileError."""
    allowance = _current.get() or Allowance()
    allowance.take(path, nbytes)
    try:
        yield
    finally:
        allowance.give_back(nbytes)
