"""How users name a codec: ``NAME``, or ``NAME=STORE`` for one with the static arrays of a store that is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mettle_cache.errors import UsageError
from mettle_cache.paths import local_path


@dataclass(frozen=True)
class CodecChoice:
    """A codec by name, and the store whose static arrays it is to have; None: those of a pilot of its own."""

    name: str
    store: Path | None = None

    @property
    def portable(self) -> str:
        """As the user wrote it, but the store by its name alone: folders differ between machines."""
        return self.name if self.store is None else f"{self.name}={self.store.name}"


def parse_codec(text: str) -> CodecChoice:
    """``klt1.5`` or ``klt1.5=cache/other.zarr``.

    Raises
    ------
    UsageError
        What follows the sign is no path.
    """
    name, sign, store = text.partition("=")
    if not name or (sign and not store):
        raise UsageError(f"the codec '{text}' is none", hint="write NAME, or NAME=STORE for a store's static arrays")
    return CodecChoice(name, local_path(store) if sign else None)
