"""``mettle methods``"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import broken_lines, hanging_lines, page_width, table_lines

if TYPE_CHECKING:
    from mettle_cache.pipelines.report.methods import MethodInfo, MethodsReport
    from mettle_cache.pipelines.report.option_docs import OptionDoc

EPILOG = """Examples:

\b
mettle methods
mettle methods lcd
mettle methods --task avvp --backbones swinv2_l,shared --json
"""


def register(app: typer.Typer) -> None:
    app.command("methods", epilog=EPILOG)(methods)


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this method's options too.", autocompletion=completion.methods)
    ] = None,
    task: Annotated[
        str, typer.Option(help="Count the methods in this task's head.", autocompletion=completion.tasks)
    ] = "avel",
    backbones: Annotated[
        str, typer.Option(metavar="VISUAL,AUDIO", help="Count them on these backbones' layers; AUDIO may be shared.")
    ] = "swinv2_l,htsat",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the methods, what each reads of a store, and its parameters; or one method's options."""
    from mettle_cache.methods.registry import METHODS
    from mettle_cache.tasks.registry import TASKS

    chosen = [METHODS.row(name).name] if name else []  # before PyTorch loads
    TASKS.row(task)

    from mettle_cache.pipelines.report.methods import methods_report, parse_backbones

    report = methods_report(chosen, task=task, backbones=parse_backbones(backbones))
    emit({**report.to_json(), "broken": METHODS.broken}, [*report_lines(report), *broken_lines(METHODS.broken)])


def report_lines(report: MethodsReport) -> list[str]:
    """The table of methods, or one method with its options."""
    where = f"{report.task} on {' and '.join(report.backbones)}, recipe {report.recipe}"
    if report.options:
        (info,) = report.methods
        return [*_method_lines(info, where), "", *option_lines(info.name, report.options[info.name])]
    width = page_width()
    header = ("name", "layers", "method_m", "head_m", "tasks")
    rows = [
        (
            info.name,
            info.layers,
            _millions(info.parameters),
            _millions(info.head),
            " ".join(info.tasks),
        )
        for info in report.methods
    ]
    return [
        *table_lines(header, rows, width=width),
        "",
        *(
            line
            for info in report.methods
            for text in _remarks(info)
            for line in hanging_lines(f"{info.name}: ", text, width)
        ),
        "",
        *textwrap.wrap(
            f"method_m and head_m: millions of trained parameters, alone and with the decoder ({where})", width
        ),
    ]


def _remarks(info: MethodInfo) -> Iterator[str]:
    """What it is, and what has to be known before it is used."""
    if info.summary:
        yield f"{info.summary} ({info.source})" if info.source else info.summary
    if info.problem:
        yield f"not counted: {info.problem}"
    if info.companions:
        yield f"needs {', '.join(info.companions)} beside the store"


def option_lines(method: str, options: Sequence[OptionDoc]) -> list[str]:
    """A method's keys, as --set and a recipe's table of its name take them."""
    lines = table_lines(
        ("key", "default", "values"),
        [(f"{method}.{o.key}", _toml(o.default), o.values) for o in options],
        width=page_width(),
    )
    described: dict[str, list[str]] = {}
    for option in options:
        if option.doc:
            described.setdefault(option.doc, []).append(option.key)
    for doc, keys in described.items():
        lines += ["", *textwrap.wrap(f"{', '.join(keys)}: {doc}", page_width(), subsequent_indent="  ")]
    return lines


def _method_lines(info: MethodInfo, where: str) -> list[str]:
    facts = {
        "is": info.summary,
        "source": info.source,
        "tasks": ", ".join(info.tasks),
        "layers": info.layers,
        "presets": ", ".join(info.presets),
        "beside the store": ", ".join(info.companions),
        "parameters": f"{info.parameters:,}, with the decoder {info.head:,} ({where})"
        if info.parameters is not None and info.head is not None
        else "",
        "not counted": info.problem,
    }
    width = page_width()
    told = (hanging_lines(f"  {name:<17} ", text, width) for name, text in facts.items() if text)
    return [info.name, *(line for lines in told for line in lines)]


def _millions(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 3) if count else 0


def _toml(value: object) -> str:
    """A value as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
