"""Where recipes and sweeps lie: built-in ones by name, a package's as ``package:file.toml``, a user's by path.

No PyTorch.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.paths import local_path

_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Kind:
    """What a file is for: the word for messages, and the folder of the built-in ones within ``pipelines``."""

    word: str
    folder: str


RECIPE = Kind("recipe", "recipes")
SWEEP = Kind("sweep", "recipes/sweeps")


def list_recipes() -> list[str]:
    """Names of the built-in recipes."""
    return list_built_in(RECIPE)


def read_recipe(name_or_path: str | Path) -> tuple[str, str]:
    """As :func:`read_text`."""
    return read_text(RECIPE, name_or_path)


def list_built_in(kind: Kind) -> list[str]:
    """Names of the built-in files of a kind."""
    folder = resources.files("mettle_cache.pipelines") / kind.folder
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_text(kind: Kind, name_or_path: str | Path) -> tuple[str, str]:
    """A file's name and its text, which is not looked into.

    Raises
    ------
    UsageError
        There is no such file.
    ConfigError
        It is too large for one, or cannot be read.
    """
    known, (package, colon, file) = list_built_in(kind), str(name_or_path).partition(":")
    if str(name_or_path) in known:
        package, file = "mettle_cache.pipelines", f"{kind.folder}/{name_or_path}.toml"
    top = package.partition(".")[0]
    if str(name_or_path) in known or (colon and top.isidentifier() and find_spec(top)):
        try:
            return Path(file).stem, (resources.files(package) / file).read_text("utf-8")
        except Exception as error:  # a module that is no package, or whose import fails in any way
            raise UsageError(f"the package {package} brings no {kind.word} {file} ({error})") from error
    path = local_path(name_or_path)
    if not os.path.isfile(path):
        near = difflib.get_close_matches(str(name_or_path), known, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no {kind.word} called '{name_or_path}', and no such file",
            hint=f"{guess}built-in {kind.word}s: {', '.join(known)}",
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError([f"larger than {_MAX_BYTES} bytes"], where=f"{kind.word} {path}")
        # editors of other systems put a byte order mark first
        return path.stem, path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], where=f"{kind.word} {path}") from error
