"""``mettle train``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli.group import emit_group, memory_line
from mettle_cache.cli.online_options import ONLINE, FillCache, Online
from mettle_cache.cli.options import TRAINED, TRAINING, Debug, Json, OptionalStore, takes
from mettle_cache.cli.output import emit
from mettle_cache.errors import UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.train.spec import parse_seeds

if TYPE_CHECKING:
    from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
    from mettle_cache.pipelines.train.config import TrainJob

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
mettle train --online --dataset ave --root data/AVE
mettle train --online --fill-cache --dataset ave
"""
OUT = "Folder of the run, or of the runs with --seeds; by default under runs/."


def register(app: typer.Typer) -> None:
    app.command("train", cls=OptionalStore, epilog=EPILOG)(train)


TRAINED_SO = (
    "store",
    "recipe",
    "overrides",
    "select_on",
    "seed",
    "out",
    "resume",
    "device",
    "resident",
    "memory",
    "graph",
    "log",
)


@takes({**TRAINING, **ONLINE}, *TRAINED_SO, *ONLINE, helps={"out": OUT})
def train(
    chosen: Mapping[str, Any],
    online: Online = False,
    fill_cache: FillCache = None,
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

    With --online there is no store: the frozen backbones compute each batch's tokens again, and the run is the one that
    a store of these tokens would give.
    """
    if chosen["seed"] is not None and seeds is not None:
        raise UsageError("--seed and --seeds exclude each other", hint="name all of them in --seeds")
    several = None if seeds is None else parse_seeds(seeds)

    given = {name: value for name in ONLINE if (value := chosen[name]) is not None}

    from mettle_cache.pipelines.train.config import TrainJob

    job = TrainJob(**{name: chosen[name] for name in TRAINED_SO})
    # a run to resume knows what its tokens were computed from
    if online and ("dataset" in given or not job.resume):
        show(_start_online(job, given, fill_cache, several))
    else:
        show(_start(job, given, fill_cache, several))


def _start(
    job: TrainJob, given: Mapping[str, Any], fill: str | None, seeds: list[int] | None
) -> TrainReport | GroupReport:
    from mettle_cache.pipelines.online.config import refuse_without_online
    from mettle_cache.pipelines.progress import terminal_progress

    refuse_without_online(given, fill, resume=job.resume)
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.train.job import resume_runs, start_seeds, start_training

    if seeds is not None:
        return start_seeds(job, seeds, terminal_progress())
    if runs := job.runs():
        moved = {"visual": given.get("visual"), "audio": given.get("audio")}
        group = resume_runs(job, terminal_progress(), root=given.get("root"), weights=moved)
        return group.only_head if runs == [job.out] else group
    return start_training(job, terminal_progress())


def _start_online(
    training: TrainJob, given: Mapping[str, Any], fill: str | None, seeds: list[int] | None
) -> TrainReport | GroupReport:
    from mettle_cache.pipelines.online.config import OnlineJob
    from mettle_cache.pipelines.progress import terminal_progress

    job = OnlineJob.of_options(training, given, fill)
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.online.job import train_online

    return train_online(job, seeds, terminal_progress())


def show(report: TrainReport | GroupReport) -> None:
    """Print the outcome; ends the command with exit code 1 if one of several heads failed."""
    from mettle_cache.pipelines.report.run_reports import GroupReport

    if isinstance(report, GroupReport):
        emit_group(report)
    else:
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
