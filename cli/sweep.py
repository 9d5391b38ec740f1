"""``mettle sweep``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mettle_cache.cli.group import emit_group
from mettle_cache.cli.options import TRAINING, Debug, Json, OptionalStore, takes
from mettle_cache.pipelines.train.spec import combine_variants, parse_seeds

EPILOG = """Examples:

\b
mettle sweep --from-cache --set lcd.k_visual=1,2 --set train.learning_rate=1e-4,4e-4 --seeds 0-2
mettle sweep --from-cache --variant "" --variant "lcd.norm=false" --variant "method=linear linear.dim=128"
mettle sweep --from-cache --set "layers=[visual/last:1,audio/last:1],stages"
mettle sweep --from-cache --set "lcd.k_visual=[1,2],[2,2]" --set train.epochs=20 --out runs/by-stage
"""
RESUME = "Go on with the runs in --out, all of them without further options, and begin new ones."


def register(app: typer.Typer) -> None:
    app.command("sweep", cls=OptionalStore, epilog=EPILOG)(sweep)


@takes(TRAINING, "store", "recipe", "out", "resume", "select_on", "device", helps={"resume": RESUME})
def sweep(
    chosen: Mapping[str, Any],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE,VALUE...",
            help="Values of one key to try; a single one is for all heads. A value with commas goes in brackets: "
            "layers=[a,b],[c,d].",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar='"KEY=VALUE ..."', help="One set of changes to try; empty for none."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2|0-4", help="Seeds to train every variant with; 0 by default.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train variants of a recipe together, reading every batch once for all of them.

    The heads are all combinations of one --variant, one value of each --set, and one seed; their runs are
    OUT/VARIANT/seed-N. Each gets the numbers that mettle train would give it alone. They must have one batch size and
    one order of samples, and all of them are in memory at once.
    """
    variants, several = combine_variants(set_ or [], variant or []), parse_seeds(seeds or "0")

    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.config import TrainJob

    job = TrainJob(**chosen)
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.train.job import resume_runs, start_sweep

    if job.runs() and not (set_ or variant or seeds):
        emit_group(resume_runs(job, terminal_progress()))
        return
    emit_group(start_sweep(job, variants, several, terminal_progress()))
