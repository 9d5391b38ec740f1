"""The help pages of all commands, where ``commands.md`` ends: what ``mettle COMMAND --help`` prints, in its groups."""

from collections.abc import Iterator
from typing import Any

import typer.main

from mettle_cache.cli.main import SECTIONS, build_app

PAGE = "commands"


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", add_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_pages(app: Any, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        source[0] += "\n".join(pages())


def pages() -> Iterator[str]:
    """MyST text: a section for each group of commands, and in it one for each command."""
    root = typer.main.get_command(build_app())
    for title, names in SECTIONS.items():
        yield f"\n## {title}\n"
        for name in names:
            yield from page(root.commands[name], f"mettle {name}")


def page(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"### {name}\n\n```text\n{command.get_help(context)}\n```\n"
    for inner, inner_command in getattr(command, "commands", {}).items():
        yield from page(inner_command, f"{name} {inner}")
