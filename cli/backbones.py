"""``mettle backbones``"""

from __future__ import annotations

import typer

from mettle_cache.cli.options import Debug, Json
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import broken_lines, page_width, table_lines

EPILOG = """Examples:

\b
mettle backbones
mettle backbones --json
"""


def register(app: typer.Typer) -> None:
    app.command("backbones", epilog=EPILOG)(backbones)


def backbones(json: Json = False, debug: Debug = False) -> None:
    """List the backbones, their layers, and where their weights come from."""
    from mettle_cache.backbones import list_backbones

    infos, broken = list_backbones()
    header = ("name", "modalities", "layers", "frozen_m", "weights")
    rows = [
        (
            info.name,
            "+".join(info.modalities),
            len(info.layers),
            round(info.frozen_parameters / 1e6, 1),
            f"found: {info.weights_found}" if info.weights_found else info.weights,
        )
        for info in infos
    ]
    lines = [
        *table_lines(header, rows, width=page_width()),
        "",
        "Any other timm Swin-V2, ViT or feature-pyramid CNN works by its timm name:",
        "NAME[@SIZE][=FILE|=random].",
        *broken_lines(broken),
    ]
    emit({"backbones": [info.to_json() for info in infos], "broken": broken}, lines)
