"""Which recipes there are, built in and brought by packages, and a copy of one for a user to change. No PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import MettleError, UsageError
from mettle_cache.pipelines.train.recipe_file import RECIPE, SWEEP, list_built_in, read_text
from mettle_cache.pipelines.train.toml_text import parse_toml
from mettle_cache.tasks.registry import TASKS


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe as it is listed: ``about`` is its first comment, ``problem`` why it cannot be read."""

    name: str
    task: str = ""
    method: str = ""
    about: str = ""
    problem: str = ""


def recipe_names() -> list[str]:
    """The built-in recipes, and those that packages name for their data sets and tasks as ``package:file.toml``."""
    brought = [row.recipe for row in (*DATASETS, *TASKS) if ":" in row.recipe]
    return [*list_built_in(RECIPE), *dict.fromkeys(brought)]


def list_all_recipes() -> list[RecipeEntry]:
    """Every recipe of :func:`recipe_names`; a package's that cannot be read says why."""
    return [_entry(name) for name in recipe_names()]


def find_recipe(name: str | Path) -> tuple[str, str]:
    """The name and the text of a recipe or a sweep, which are files of the same form.

    Raises
    ------
    UsageError
        There is none of that name, and no such file.
    ConfigError
        It cannot be read.
    """
    return read_text(SWEEP if str(name) in list_built_in(SWEEP) else RECIPE, name)


def copy_recipe(name: str | Path, target: Path | None) -> Path:
    """Write a recipe's text to ``target``, a new file, or a folder that it gets its own name in.

    Raises
    ------
    UsageError
        As :func:`find_recipe`; or there is a file already, or no folder to write it to.
    """
    stem, text = find_recipe(name)
    path = Path(f"{stem}.toml") if target is None else target / f"{stem}.toml" if target.is_dir() else target
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already, and is not written over", hint="name another file") from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from error
    return path


def _entry(name: str) -> RecipeEntry:
    try:
        text = read_text(RECIPE, name)[1]
        table = parse_toml(text)
    except MettleError as error:
        return RecipeEntry(name, problem=error.message)
    except ValueError as error:
        return RecipeEntry(name, problem=f"this is not TOML: {error}")
    return RecipeEntry(name, str(table.get("task", "")), str(table.get("method", "lcd")), " ".join(_remarks(text)))


def _remarks(text: str) -> Iterator[str]:
    """The first lines of comment, without the commands among them."""
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            return
        yield line.removeprefix("# ").strip()
