"""The companions of a store: files in its folder ``companions/`` that some methods read (FORMAT.md, section 11).

They are no part of what ``READY`` vouches for: one may be written, or be taken away, at any time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mettle_cache.companions import STORE, SUFFIX, CompanionFile, companion_bytes
from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import COMPANIONS, file_digest
from mettle_cache.store.writing.durable import make_folder, write_file

if TYPE_CHECKING:
    from torch import Tensor


def find_companions(store: Path, key: str) -> dict[str, CompanionFile]:
    """The companions of the store with this key digest, by file name; none of them is opened.

    Of a folder that may not be looked into, none: who needs one says that it lacks.
    """
    folder = store / COMPANIONS
    if os.path.islink(folder) or not os.path.isdir(folder):
        return {}
    return {path.name: CompanionFile(path, key) for path in sorted(folder.glob(f"*{SUFFIX}"))}


def keep_companion(store: Path, name: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bool:
    """Write a companion, durably, unless it is there already and whole; says whether it wrote.

    Raises
    ------
    StoreCorruptError
        The folder is a link.
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    folder = store / COMPANIONS
    if folder.is_symlink():
        raise StoreCorruptError(
            f"{folder} is a link; a store holds its own files", hint="put the folder itself in the link's place"
        )
    path, content = folder / name, companion_bytes(tensors, description)
    if path.is_file() and not path.is_symlink() and file_digest(path) == digest(content):
        return False
    make_folder(folder)
    write_file(path, content)
    return True


def copy_companions(companions: Mapping[str, CompanionFile], store: Path, key: str) -> Iterator[str]:
    """Write the companions of a store beside another one of the same tokens, with this key digest.

    Yields what is wrong with those that cannot be read, and leaves them out. Raises as :func:`keep_companion`.
    """
    for name, companion in companions.items():
        try:
            tensors, description = companion.load(), companion.description
        except MettleError as error:
            yield error.message
            continue
        keep_companion(store, name, tensors, {**description, STORE: key})


def damaged_companions(store: Path, key: str, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Path within the store and what is wrong, of companions that cannot be used; ``deep`` reads them whole."""
    for name, companion in find_companions(store, key).items():
        try:
            _ = companion.load() if deep else companion.description
        except MettleError as error:
            yield f"{COMPANIONS}/{name}", error.message.removeprefix(f"{companion.path}: ")
