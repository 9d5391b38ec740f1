"""``mettle sweep``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mettle_cache.cli.group import emit_group
from mettle_cache.cli.options import Debug, Device, FromCache, Json, OptionalStore, Recipe, SelectOn

EPILOG = """Examples:

mettle sweep --from-cache --set lcd.k_visual=1,2 --set train.learning_rate=1e-4,4e-4 --seeds 0-2

mettle sweep --from-cache --variant "" --variant "lcd.norm=false" --variant "method=linear linear.dim=128"

mettle sweep --from-cache --set "lcd.k_visual=[1,2],[2,2]" --set train.epochs=20 --out runs/by-stage
"""


def register(app: typer.Typer) -> None:
    app.command("sweep", cls=OptionalStore, epilog=EPILOG)(sweep)


def sweep(
    from_cache: FromCache,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,VALUE...",
            help="Values of one key to try; a single one is for all heads. Quote a value that has a comma in it.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar='"KEY=VALUE ..."', help="One set of changes to try; empty for none."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="0,1,2|0-4", help="Seeds to train every variant with.")] = "0",
    recipe: Recipe = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; by default under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs in --out, and begin new ones.")] = False,
    select_on: SelectOn = "val",
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train variants of a recipe together, reading every batch once for all of them.

    The heads are all combinations of one --variant, one value of each --set, and one seed; their runs are
    OUT/VARIANT/seed-N. Each gets the numbers that mettle train would give it alone. They must have one batch size and
    one order of samples, and all of them are in memory at once.
    """
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.job import TrainJob, start_sweep
    from mettle_cache.pipelines.train.sweep import combine_variants, parse_seeds

    job = TrainJob(
        store=Path(from_cache) if from_cache else None,
        recipe=recipe,
        out=out,
        resume=resume,
        select_on=select_on,
        device=device,
    )
    variants = combine_variants(set_ or [], variant or [])
    emit_group(start_sweep(job, variants, parse_seeds(seeds), terminal_progress()))
