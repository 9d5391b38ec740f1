"""``mettle recipes``: list, show and copy what a head is trained by"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.help_page import App
from mettle_cache.cli.options import Debug, Json, path_argument
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import page_width, table_lines
from mettle_cache.errors import UsageError
from mettle_cache.paths import command_line

EPILOG = """Examples:

\b
mettle recipes list
mettle recipes show ave-swin-htsat
mettle recipes copy ave-swin-htsat mine.toml
"""
SHOW_EPILOG = """Examples:

\b
mettle recipes show ave-swin-htsat
mettle recipes show table9
"""
COPY_EPILOG = """Examples:

\b
mettle recipes copy ave-swin-htsat
mettle recipes copy ave-swin-htsat mine.toml
mettle train --from-cache --recipe mine.toml
"""
NAME = typer.Argument(
    metavar="NAME", help="A recipe, or a sweep of mettle sweep --list.", autocompletion=completion.recipes
)


def register(app: typer.Typer) -> None:
    group = App()
    group.callback(invoke_without_command=True)(recipes)
    group.command("list", epilog="Examples:\n\n\b\nmettle recipes list\nmettle recipes list --json\n")(list_)
    group.command("show", epilog=SHOW_EPILOG)(show)
    group.command("copy", epilog=COPY_EPILOG)(copy)
    app.add_typer(group, name="recipes", epilog=EPILOG)


def recipes(context: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """List the recipes that heads are trained by, show one, or copy one to change."""
    if context.invoked_subcommand is None:
        raise UsageError("say what to do with recipes: list, show or copy", hint="mettle recipes list")


def list_(json: Json = False, debug: Debug = False) -> None:
    """List the recipes: those of the papers' settings, those for small data sets, and those of installed packages."""
    from mettle_cache.pipelines.train.recipe_list import list_all_recipes

    entries = list_all_recipes()
    rows = [(one.name, one.task or None, one.method or None, one.about or one.problem) for one in entries]
    emit(
        {"recipes": [asdict(one) for one in entries]},
        [
            *table_lines(("recipe", "task", "method", "what it is"), rows, width=page_width()),
            "",
            "show one: mettle recipes show NAME; the papers' tables: mettle sweep --list",
        ],
    )


def show(name: Annotated[str, NAME], json: Json = False, debug: Debug = False) -> None:
    """Print a recipe's TOML."""
    from mettle_cache.pipelines.train.recipe_list import find_recipe

    found, text = find_recipe(name)
    emit({"name": found, "text": text}, text.rstrip("\n").split("\n"))


def copy(
    name: Annotated[str, NAME],
    file: Annotated[Path | None, path_argument("Where to; by default NAME.toml here.", metavar="FILE")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe to a file of yours. A file that is there is not written over."""
    from mettle_cache.pipelines.train.recipe_file import SWEEP, list_built_in
    from mettle_cache.pipelines.train.recipe_list import copy_recipe

    path = copy_recipe(name, file)
    sweep = name in list_built_in(SWEEP)
    use = command_line("mettle sweep", path) if sweep else command_line("mettle train --from-cache --recipe", path)
    then = f"{use} --from-cache" if sweep else use
    emit({"copied": str(path), "next": then}, [f"written    {path}", f"next       {then}"])
