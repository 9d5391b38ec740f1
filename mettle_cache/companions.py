"""Companions: what some methods read beside a store's tokens, such as the weights of a backbone's last block.

A companion is named tensors with a JSON description. It is one safetensors file, whose bytes follow from its content,
and the description is sealed (:mod:`mettle_cache.sealing`) and names the key of the store that it is of. A store keeps
its companions in a folder of its own, a run and an exported head keep copies of those that they need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError, safe_open

from mettle_cache.errors import StoreCorruptError, StoreKeyError
from mettle_cache.paths import command_line
from mettle_cache.sealing import DIGEST, seal, seal_fits

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "mettle-companion-1"
SUFFIX = ".safetensors"
STORE = "store"
"""The key of a description that holds the key digest of the store."""
# what is kept of a backbone is a block's weights; descriptions are a few hundred bytes
_LONGEST_DESCRIPTION = 1 << 20


class Companion(Protocol):
    """Named tensors and what describes them; the tensors are read when they are asked for."""

    @property
    def description(self) -> Mapping[str, Any]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor."""

    def load(self) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True, eq=False)
class HeldCompanion:
    """A companion in memory. ``description`` is sealed or not."""

    description: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def load(self) -> Mapping[str, Tensor]:
        return self.tensors


@dataclass(frozen=True, eq=False)
class CompanionFile:
    """A companion on the disk, which nothing opens before it is used. ``store`` is the key digest that it must name.

    Raises
    ------
    StoreCorruptError
        Whatever is used of it: the file is missing, damaged, or something else.
    StoreKeyError
        It is of another store.
    """

    path: Path
    store: str

    @property
    def description(self) -> Mapping[str, Any]:
        return self._header[0]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._header[1]

    def load(self) -> Mapping[str, Tensor]:
        description = self.description
        try:
            with safe_open(self.path, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise self._damaged(str(error)) from error
        if not seal_fits(tensors, description):
            raise self._damaged("its digest is another one")
        return tensors

    @cached_property
    def _header(self) -> tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]:
        if self.path.is_symlink() or not self.path.is_file():
            raise self._damaged("it is no regular file")
        try:
            with safe_open(self.path, framework="pt") as opened:
                text = (opened.metadata() or {}).get(FORMAT, "")
                shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            description = json.loads(text) if len(text) <= _LONGEST_DESCRIPTION else None
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        if not isinstance(description, dict) or DIGEST not in description or STORE not in description:
            raise self._damaged(f"it has no description of format {FORMAT}")
        if description[STORE] != self.store:
            raise StoreKeyError(
                f"{self.path} is of another store than the one that it lies beside",
                hint=f"remove it; {_AGAIN}",
            )
        return description, shapes

    def _damaged(self, what: str) -> StoreCorruptError:
        return StoreCorruptError(f"{self.path}: the companion is damaged ({what})", hint=f"remove it; {_AGAIN}")


_AGAIN = f"{command_line('mettle extract')} with the same options writes it again"


def companion_bytes(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """The file of a companion; the same content gives the same bytes. ``description`` has the key :data:`STORE`."""
    from safetensors.torch import save  # with PyTorch behind it

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    body = {key: value for key, value in description.items() if key != DIGEST}
    # one entry: safetensors writes several in an order that changes from process to process
    return save(plain, metadata={FORMAT: json.dumps(seal(plain, body), sort_keys=True)})
