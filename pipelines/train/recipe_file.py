"""Where recipes lie: built-in ones by name, a package's as ``package:file.toml``, a user's by path. No PyTorch."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.paths import local_path

_MAX_BYTES = 1 << 16


def list_recipes() -> list[str]:
    """Names of the built-in recipes."""
    folder = resources.files("mettle_cache.pipelines") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(name_or_path: str | Path) -> tuple[str, str]:
    """A recipe's name and its text, which is not looked into.

    Raises
    ------
    UsageError
        There is no such recipe.
    ConfigError
        The file is too large for one, or cannot be read.
    """
    known, (package, colon, file) = list_recipes(), str(name_or_path).partition(":")
    if str(name_or_path) in known:
        package, file = "mettle_cache.pipelines", f"recipes/{name_or_path}.toml"
    top = package.partition(".")[0]
    if str(name_or_path) in known or (colon and top.isidentifier() and find_spec(top)):
        try:
            return Path(file).stem, (resources.files(package) / file).read_text("utf-8")
        except Exception as error:  # a module that is no package, or whose import fails in any way
            raise UsageError(f"the package {package} brings no recipe {file} ({error})") from error
    path = local_path(name_or_path)
    if not os.path.isfile(path):
        near = difflib.get_close_matches(str(name_or_path), known, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no recipe called '{name_or_path}', and no such file",
            hint=f"{guess}built-in recipes: {', '.join(known)}",
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError([f"larger than {_MAX_BYTES} bytes"], where=f"recipe {path}")
        # editors of other systems put a byte order mark first
        return path.stem, path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], where=f"recipe {path}") from error
