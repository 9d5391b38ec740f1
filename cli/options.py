"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from mettle_cache.cli.output import MODE

NEWEST = ""


def _remember_json(value: bool) -> bool:
    MODE.json = MODE.json or value
    return value


def _remember_debug(value: bool) -> bool:
    MODE.debug = MODE.debug or value
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", callback=_remember_json, is_eager=True)
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True)
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; a GPU is used where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
StoreArgument = Annotated[Path, typer.Argument(help="A token store, for example cache/ave-swinv2_l-htsat.zarr.")]
FromCache = Annotated[
    str,
    typer.Option(
        "--from-cache", metavar="[STORE]", help="The store; without a value the newest finished one under cache/."
    ),
]

Recipe = Annotated[str | None, typer.Option(help="A recipe's name or a TOML file; by default what fits the store.")]
SelectOn = Annotated[str, typer.Option(help="val, test (as the peers do; marks the result) or last.")]


class OptionalStore(TyperCommand):
    """``--from-cache`` with or without a value: click's options always want one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        given = list(args)
        for index, word in enumerate(given):
            following = given[index + 1 : index + 2]
            if word == "--from-cache" and (not following or following[0].startswith("-")):
                given[index] = f"--from-cache={NEWEST}"
        return super().parse_args(ctx, given)
