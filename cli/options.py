"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import MODE


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
