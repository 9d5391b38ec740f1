"""Help pages in plain text: commands and options in groups, every summary whole, examples as they are typed."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

OPTIONS = "Options"
GENERAL = "General"
"""The panel of what every command takes; always the last one."""
# what stands for a value whose option names none
METAVARS = {int: "N", float: "NUMBER", str: "NAME"}
# a page wider than this is hard to read; a narrower terminal is used to its edge
MAX_WIDTH = 100
NAMES_WIDTH = 26
_RANGE = re.compile(r"(?:(\d+)<=)?x(?:<=(\d+)|>=(\d+))")
# a bound that only keeps a number within 64 bits says nothing to a reader
_HUGE = 1 << 60


class Command(TyperCommand):
    """A command with such a page. An option's ``rich_help_panel`` is the group that it is listed in."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return _usage_pieces(self, ctx)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        _write_epilog(self, formatter)


class Group(TyperGroup):
    """A command of commands, as ``sections`` groups them; those that it leaves out are listed last."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*_usage_pieces(self, ctx), self.subcommand_metavar]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        named = {name for names in self.sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in named]
        panels = {
            title: [(name, _summary(self.commands[name])) for name in names if name in self.commands]
            for title, names in {**self.sections, "Commands": others}.items()
        }
        _write_panels(panels, formatter)

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        _write_epilog(self, formatter)


class App(typer.Typer):
    """A typer whose commands have such pages."""

    def __init__(self, **options: Any) -> None:
        options = {"cls": Group, "rich_markup_mode": None, "add_completion": False} | options
        super().__init__(**options)

    def command(  # type: ignore[override]
        self, name: str | None = None, *, cls: type[TyperCommand] = Command, **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return super().command(name, cls=cls, **options)


def _summary(command: Any) -> str:
    """The first sentence of a command's help, whole."""
    return str(command.get_short_help_str(limit=1000)).removesuffix(".")


def _usage_pieces(command: Any, ctx: typer.Context) -> list[str]:
    arguments = [param for param in command.get_params(ctx) if isinstance(param, TyperArgument)]
    return ["[OPTIONS]", *map(_place, arguments)]


def _place(argument: TyperArgument) -> str:
    """An argument as a usage line has it: ``RUN``, ``RUN...`` or ``[RUN]``."""
    name = _argument_name(argument)
    several = f"{name}..." if argument.nargs == -1 else name
    return several if argument.required else f"[{several}]"


def _argument_name(argument: TyperArgument) -> str:
    return (argument.metavar or argument.name or "").upper()


def _write_options(command: Any, ctx: typer.Context, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        argument = isinstance(param, TyperArgument)
        panel = "Arguments" if argument else param.rich_help_panel or (GENERAL if GENERAL in panels else OPTIONS)
        name = _argument_name(param) if argument else _option_name(param)
        panels.setdefault(panel, []).append((name, _RANGE.sub(_range_in_words, record[1])))
    general = panels.pop(GENERAL, [])
    _write_panels({**panels, GENERAL: general}, formatter)


def _write_panels(panels: Mapping[str, Sequence[tuple[str, str]]], formatter: Any) -> None:
    """Names and what they do; names have one column over all panels, one that is longer has a line to itself."""
    names = [name for rows in panels.values() for name, _ in rows]
    width = max((len(name) for name in names if len(name) <= NAMES_WIDTH), default=0)
    indent = " " * (width + 4)
    for panel, rows in panels.items():
        if not rows:
            continue
        formatter.write(f"\n{panel}:\n")
        for name, text in rows:
            # a name, an option or a path is never broken at its hyphens
            wrapped = textwrap.wrap(text, formatter.width - len(indent), break_on_hyphens=False, break_long_words=False)
            beside = wrapped[:1] if len(name) <= width else []
            formatter.write(f"  {name.ljust(width)}  {''.join(beside)}".rstrip() + "\n")
            formatter.write("".join(f"{indent}{line}\n" for line in wrapped[len(beside) :]))


def _option_name(option: Any) -> str:
    """``-V, --version``, ``--seed N`` or ``--measure / --no-measure``."""
    names = " / ".join(", ".join(sorted(some, key=len)) for some in (option.opts, option.secondary_opts) if some)
    if option.is_flag:
        return names
    (kind,) = [kind for kind in (int, float, str) if option.type_descriptor.annotation is kind] or [str]
    return f"{names} {option.metavar or METAVARS[kind]}"


def _range_in_words(match: re.Match[str]) -> str:
    low, high, least = match.groups()
    if least is not None or int(high) > _HUGE:
        return f"at least {least or low}"
    return f"{low} to {high}" if low is not None else f"at most {high}"


def _write_epilog(command: Any, formatter: Any) -> None:
    """The epilog's lines as they are: what is wrapped cannot be copied into a shell."""
    if command.epilog:
        formatter.write_paragraph()
        lines = (line for line in inspect.cleandoc(command.epilog).splitlines() if line != "\b")
        formatter.write("".join(f"{_indented(line)}\n" for line in _without_doubled_gaps(lines)))


def _without_doubled_gaps(lines: Iterable[str]) -> Iterable[str]:
    """Lines with one empty line where there were several, and none after a title."""
    before = ""
    for line in lines:
        if line or (before and not before.endswith(":")):
            yield line
        before = line


def _indented(line: str) -> str:
    return line if not line or line.endswith(":") else f"  {line}"
