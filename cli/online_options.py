"""The options by which ``train`` computes tokens instead of reading them: those of ``extract``, none of them set."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Annotated, Any

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.extraction_options import EXTRACTION
from mettle_cache.cli.options import Setting

PANEL = "Without a store (--online)"
Online = Annotated[
    bool,
    typer.Option("--online", help="Run the backbones in the loop instead of reading a store.", rich_help_panel=PANEL),
]
FillCache = Annotated[
    str | None,
    typer.Option(
        "--fill-cache",
        metavar="[STORE]",
        help="Write tokens to a store as they are computed, and read them from then on; without a value where extract "
        "would put it, and in extract's codec.",
        rich_help_panel=PANEL,
        autocompletion=completion.stores,
    ),
]
_TAKEN = (
    *("dataset", "root", "visual", "audio", "codec", "layers", "options", "limit", "skip_missing", "precision"),
    "clips_per_shard",
)
_HELPS = {
    "codec": "What tokens are rounded to, as a store in it holds them; float16 by default.",
    "layers": "The layers to compute; by default those that the task reads.",
    "limit": "Only the first N clips of each split, to try it out.",
    "clips_per_shard": "As the store that this is to be the same as.",
}
# said in the place of the command's own default, which tells whether a value was given
_DEFAULTS = ("visual", "audio", "precision")


def _unset(name: str, setting: Setting) -> Setting:
    """The setting where no value is told from the default one."""
    option = copy(setting.option)
    option.help = _HELPS.get(name, option.help)
    if name in _DEFAULTS:
        option.help = f"{(option.help or '').removesuffix('.')}; {setting.default} by default."

    def parse(value: Any) -> Any:
        return None if value is None or value == [] else setting.parse(value)

    return replace(setting, kind=setting.kind | None, option=option, default=None, parse=parse, panel=PANEL)


ONLINE: Mapping[str, Setting] = {name: _unset(name, EXTRACTION[name]) for name in _TAKEN}
