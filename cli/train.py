"""``mettle train``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from cli.options import Debug, Device, Json, Seed
from cli.output import emit
from pipelines.units import format_bytes

if TYPE_CHECKING:
    from pipelines.train_report import TrainReport

EPILOG = """Examples:

mettle train --from-cache

mettle train --from-cache cache/ave-swinv2_l-htsat.zarr --recipe ave-swin-htsat --seed 1

mettle train --from-cache --set lcd.k_visual=1 --set train.epochs=20 --out runs/k1
"""
NEWEST = ""


class OptionalStore(TyperCommand):
    """``--from-cache`` with or without a value: click's options always want one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        given = list(args)
        for index, word in enumerate(given):
            following = given[index + 1 : index + 2]
            if word == "--from-cache" and (not following or following[0].startswith("-")):
                given[index] = f"--from-cache={NEWEST}"
        return super().parse_args(ctx, given)


def register(app: typer.Typer) -> None:
    app.command("train", cls=OptionalStore, epilog=EPILOG)(train)


def train(
    from_cache: Annotated[
        str,
        typer.Option(
            "--from-cache", metavar="[STORE]", help="The store; without a value the newest finished one under cache/."
        ),
    ],
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name or a TOML file; by default what fits the store.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    select_on: Annotated[str, typer.Option(help="val, test (as the peers do; marks the result) or last.")] = "val",
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a head from a token store; the backbone is not loaded."""
    from pipelines.progress import terminal_progress
    from pipelines.trainjob import TrainJob, start_training

    job = TrainJob(
        store=Path(from_cache) if from_cache else None,
        recipe=recipe,
        overrides=tuple(set_ or ()),
        seed=seed,
        out=out,
        resume=resume,
        select_on=select_on,
        device=device,
    )
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
        f"memory     {format_bytes(report.peak_memory_bytes)} at most, {report.peak_memory_of}",
        *(f"note       {note}" for note in report.notes),
        f"next       mettle evaluate {report.out}",
    ]
