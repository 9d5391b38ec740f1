"""``mettle train``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli.group import emit_group, memory_line
from mettle_cache.cli.options import TRAINED, TRAINING, Debug, Json, OptionalStore, takes
from mettle_cache.cli.output import emit
from mettle_cache.errors import UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.train.spec import parse_seeds

if TYPE_CHECKING:
    from mettle_cache.pipelines.report.run_reports import TrainReport

EPILOG = """Examples:

\b
mettle train --from-cache
mettle train --from-cache cache/ave-swinv2_l-htsat.zarr \\
    --recipe ave-swin-htsat --seed 1
mettle train --from-cache --set lcd.k_visual=1 \\
    --set train.epochs=20 --out runs/k1
mettle train --from-cache --seeds 0-4
mettle train --resume --out runs/k1
mettle train --resume --out runs/k1 --set train.epochs=40
"""
OUT = "Folder of the run, or of the runs with --seeds; by default under runs/."


def register(app: typer.Typer) -> None:
    app.command("train", cls=OptionalStore, epilog=EPILOG)(train)


@takes(
    TRAINING,
    *("store", "recipe", "overrides", "select_on", "seed", "out", "resume", "device", "resident", "memory", "log"),
    helps={"out": OUT},
)
def train(
    chosen: Mapping[str, Any],
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,2|0-4", help="Train one head a seed, all from the same reads.", rich_help_panel=TRAINED
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a head, or one for each of several seeds, from a token store; the backbone is not loaded.

    Several heads share one pass over the store an epoch: each gets the numbers that it would get alone, the bytes are
    read once. Their runs are OUT/seed-0, OUT/seed-1 and so on.

    A run that was stopped goes on with --resume --out RUN to the numbers of one that was not. A finished one can be
    made longer.
    """
    if chosen["seed"] is not None and seeds is not None:
        raise UsageError("--seed and --seeds exclude each other", hint="name all of them in --seeds")
    several = None if seeds is None else parse_seeds(seeds)

    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.config import TrainJob

    job = TrainJob(**chosen)
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.train.job import resume_runs, start_seeds, start_training

    if several is not None:
        emit_group(start_seeds(job, several, terminal_progress()))
        return
    if job.runs() not in ([], [job.out]):
        emit_group(resume_runs(job, terminal_progress()))
        return
    report = start_training(job, terminal_progress())
    emit(report.to_json(), report_lines(report))


def report_lines(report: TrainReport) -> list[str]:
    """What a reader of the run's numbers has to know."""
    best = "" if report.best_score is None else f", {report.selected_on} {report.metric} {report.best_score:.2f}"
    return [
        f"run        {report.out}",
        f"best       epoch {report.best_epoch} of {report.epochs}{best}",
        f"samples    {', '.join(f'{split} {count}' for split, count in report.samples.items())}",
        f"parameters {report.parameters / 1e6:.2f} M trained",
        f"speed      {report.clips_per_second:.1f} clips/s",
        *([f"tokens     {report.tokens}"] if report.tokens else []),
        f"memory     {memory_line(report)}",
        *(f"note       {note}" for note in report.notes),
        f"next       {command_line('mettle evaluate', report.out)}",
    ]
