"""Options that several commands share, and those that are the fields of a configuration, each spelled here once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from mettle_cache.cli import completion
from mettle_cache.cli.help_page import GENERAL, OPTIONS, Command
from mettle_cache.cli.output import MODE
from mettle_cache.errors import UsageError
from mettle_cache.paths import local_path

NEWEST = ""
WITHOUT_A_VALUE = ("--from-cache", "--fill-cache")


def path_option(*names: str, text: str, metavar: str = "FOLDER", panel: str = OPTIONS) -> Any:
    """An option whose value is a file or folder of this machine: what typer makes of ``Path`` would take addresses."""
    offered = completion.OF_METAVAR.get(metavar)
    return typer.Option(
        *names, help=text, metavar=metavar, parser=local_path, rich_help_panel=panel, autocompletion=offered
    )


def path_argument(text: str, *, metavar: str) -> Any:
    """As :func:`path_option`, for an argument."""
    offered = completion.OF_METAVAR.get(metavar)
    return typer.Argument(help=text, metavar=metavar, parser=local_path, autocompletion=offered)


def _remember_json(value: bool) -> bool:
    MODE.json = MODE.json or value
    return value


def _remember_debug(value: bool) -> bool:
    MODE.debug = MODE.debug or value
    return value


def _flag_of_all(name: str, text: str, callback: Callable[[bool], bool]) -> Any:
    """A flag that every command takes."""
    return typer.Option(name, help=text, callback=callback, is_eager=True, rich_help_panel=GENERAL)


Json = Annotated[bool, _flag_of_all("--json", "Print one JSON document on stdout.", _remember_json)]
Debug = Annotated[bool, _flag_of_all("--debug", "Show the traceback of an error.", _remember_debug)]
DEVICE_OPTION = typer.Option(
    metavar="cpu|cuda|cuda:N",
    help="Where to compute; by default a GPU where there is one.",
    autocompletion=completion.one_of("cpu", "cuda"),
)
Device = Annotated[str | None, DEVICE_OPTION]
SEED = typer.Option(
    min=0, max=(1 << 63) - 1, show_default=False, help="Everything random follows from it; 0 by default."
)
Seed = Annotated[int, SEED]
StoreArgument = Annotated[
    Path, path_argument("A token store, for example cache/ave-swinv2_l-htsat.zarr.", metavar="STORE")
]


@dataclass(frozen=True)
class Setting:
    """How users give one field of a configuration.

    ``kind`` is the type of the text they write, ``parse`` makes the field's value from it. Without a ``default`` the
    option must be given. The defaults are the configuration's own; a test compares them.
    ``panel`` is the group that the option is listed in.
    """

    kind: Any
    option: OptionInfo
    default: Any = inspect.Parameter.empty
    parse: Callable[[Any], Any] = lambda value: value
    panel: str = OPTIONS


def parse_size(text: str) -> int:
    from mettle_cache.pipelines.report.units import parse_bytes

    return parse_bytes(text)


def several(values: list[str] | None) -> tuple[str, ...]:
    return tuple(values or ())


TRAINED, RUNS = "What to train", "How to run"
DEVICE = Setting(str | None, DEVICE_OPTION, None, panel=RUNS)


# the fields of pipelines.train.config.TrainJob
def _loggers(names: list[str] | None) -> tuple[str, ...] | None:
    from mettle_cache.pipelines.train.loggers.registry import parse_loggers

    return parse_loggers(names) if names else None


TRAINING: Mapping[str, Setting] = {
    "store": Setting(
        str | None,
        typer.Option(
            "--from-cache",
            metavar="[STORE]",
            autocompletion=completion.stores,
            help="The store; without a value the newest finished one under cache/. A run to resume knows its own.",
        ),
        None,
        lambda text: local_path(text) if text else None,
        panel=TRAINED,
    ),
    "recipe": Setting(
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A recipe of mettle recipes list, or a TOML file; by default what fits the store.",
            autocompletion=completion.recipes,
        ),
        None,
        panel=TRAINED,
    ),
    "overrides": Setting(
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one key of the recipe; a value with commas goes in brackets: layers=[a,b].",
        ),
        None,
        several,
        panel=TRAINED,
    ),
    "seed": Setting(int | None, SEED, None, panel=TRAINED),
    "out": Setting(Path | None, path_option(text="Folder of the runs; by default under runs/."), None, panel=RUNS),
    "resume": Setting(
        bool, typer.Option("--resume", help="Go on with what is in --out; needs nothing else."), False, panel=RUNS
    ),
    "select_on": Setting(
        str | None,
        typer.Option(
            metavar="val|test|last",
            help="The epoch that counts: the best on val (the default), on test (as the peers do; marks the result), "
            "or the last.",
            autocompletion=completion.one_of("val", "test", "last"),
        ),
        None,
        panel=TRAINED,
    ),
    "device": DEVICE,
    "resident": Setting(
        str,
        typer.Option(
            metavar="auto|device|memory|disk",
            help="Where tokens stay once the first epoch has read them: on the device, in host memory or on the disk. "
            "auto is the nearest that holds them.",
            autocompletion=completion.one_of("auto", "device", "memory", "disk"),
        ),
        "auto",
        panel=RUNS,
    ),
    "memory": Setting(
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for heads that are trained together, such as 8GB; those that do not fit take passes of their "
            "own. It also bounds what tokens take in host memory. By default most of what is free.",
        ),
        None,
        lambda text: None if text is None else parse_size(text),
        panel=RUNS,
    ),
    "graph": Setting(
        bool,
        typer.Option(
            "--graph/--no-graph", help="On a GPU, capture steps of the same shape as one graph and replay it."
        ),
        True,
        panel=RUNS,
    ),
    "log": Setting(
        list[str] | None,
        typer.Option(
            "--log",
            metavar="NAME,NAME...",
            help="Where numbers and pictures go: tensorboard, wandb, mlflow, or none. By default what the run to "
            "resume had, else tensorboard.",
            autocompletion=completion.loggers,
        ),
        None,
        _loggers,
        panel=RUNS,
    ),
}


def takes(
    settings: Mapping[str, Setting], *names: str, helps: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields, in this order; their values come as its mapping ``chosen``.

    ``helps`` is what a field's option says in this command where it is not what it says in the others.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**values: Any) -> None:
            command({name: settings[name].parse(values.pop(name)) for name in names}, **values)

        shared = [_parameter(name, settings[name], helps.get(name)) for name in names]
        others = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "chosen"
        ]
        parameters = (*shared, *others)
        # what typer reads
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _parameter(name: str, setting: Setting, text: str | None) -> inspect.Parameter:
    option = copy(setting.option)
    option.help, option.rich_help_panel = text or option.help, setting.panel
    kind: Any = Annotated[setting.kind, option]  # type: ignore[name-defined]  # a type only when it runs
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=setting.default)


class OptionalStore(Command):
    """``--from-cache`` and ``--fill-cache`` with or without a value, where click's options always want one.

    Left away altogether, there must be a run to resume, which knows its store.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        words = list(args)
        for index, word in enumerate(words):
            following = words[index + 1 : index + 2]
            if word in WITHOUT_A_VALUE and (not following or following[0].startswith("-")):
                words[index] = f"{word}={NEWEST}"
        rest = super().parse_args(ctx, words)
        if ctx.resilient_parsing or ctx.params.get("listing"):
            return rest
        if ctx.params.get("online"):
            return rest
        if ctx.params["store"] is None and not ctx.params["resume"]:
            hint = "name the store, or give --from-cache alone for the newest one under cache/"
            raise UsageError("--from-cache is missing", hint=hint)
        if ctx.params["store"] is None and ctx.params["out"] is None:
            raise UsageError("--resume without a store needs the run's place", hint="name it with --out")
        return rest
