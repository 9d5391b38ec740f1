"""The record of how far a store's tokens are from those of float32, kept beside it as a companion (FORMAT.md, 11).

Stage one writes it where backbones ran in half precision. It describes the tokens before the codec, and no byte of the
store depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mettle_cache.companions import STORE, SUFFIX
from mettle_cache.errors import StoreCorruptError
from mettle_cache.options import STRICT
from mettle_cache.store.companions import find_companions, keep_companion

PRECISION = f"precision{SUFFIX}"
KIND = "precision"


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """The RMS of the difference over the RMS of float32's tokens: as they are, and each normalised over its channels.

    Normalised is what a LayerNorm makes of a token: where a few channels are far larger than the others, ``tokens`` is
    about these alone.
    """

    __pydantic_config__ = STRICT

    tokens: float
    normalised: float


@dataclass(frozen=True, kw_only=True)
class PrecisionRecord:
    """The error by layer of what ``precision`` gave, measured on all segments of the clips named."""

    __pydantic_config__ = STRICT

    precision: str
    clips: tuple[str, ...]
    layers: Mapping[str, LayerError]

    @property
    def worst(self) -> str:
        """The layer with the largest error."""
        return max(self.layers, key=lambda name: self.layers[name].tokens)

    def summary(self) -> str:
        """One line for people."""
        errors = sorted(error.tokens for error in self.layers.values())
        normalised = max(self.layers, key=lambda name: self.layers[name].normalised)
        return (
            f"{self.precision}, compared with float32 on {len(self.clips)} clips: tokens are off by at most "
            f"{errors[-1]:.2%} (RMS, {self.worst}), in the median layer by {errors[len(errors) // 2]:.2%}; normalised "
            f"tokens by at most {self.layers[normalised].normalised:.2%} ({normalised})"
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PrecisionRecord:
        """What :meth:`to_json` gave; other keys do not count. Raises ValueError for anything else."""
        fields = {name: document.get(name) for name in cls.__dataclass_fields__}
        # JSON mode, because its strictness lets a list be a tuple
        return TypeAdapter(cls).validate_json(json.dumps(fields))

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def keep_precision(store: Path, key: str, record: PrecisionRecord) -> bool:
    """Write the record beside the store with this key digest, unless it is there; says whether it wrote.

    Raises as :func:`~mettle_cache.store.companions.keep_companion`.
    """
    return keep_companion(store, PRECISION, {}, {"kind": KIND, STORE: key, **record.to_json()})


def find_precision(store: Path, key: str) -> PrecisionRecord | None:
    """The record beside the store with this key digest; None where there is none.

    Raises
    ------
    StoreCorruptError, StoreKeyError
        The file is damaged, or of another store.
    """
    companion = find_companions(store, key).get(PRECISION)
    if companion is None:
        return None
    companion.load()  # which compares the digest
    try:
        return PrecisionRecord.from_json(companion.description)
    except ValueError as error:
        raise StoreCorruptError(f"{companion.path}: it is no record of a precision's error") from error
