"""``mettle extract``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Device, Json, Seed
from mettle_cache.cli.output import emit
from mettle_cache.pipelines.report.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.config import ExtractReport

EPILOG = """Examples:

mettle extract --dataset ave

mettle extract --dataset ave --root data/AVE --visual swinv2_l=swin.safetensors --audio htsat=htsat.ckpt

mettle extract --dataset ave --visual vit_small_patch14_dinov2@224=random --audio shared --codec int4 --layers stages

mettle extract --dataset avs-s4 --option train_frames=5
"""
DATASET = Annotated[str, typer.Option(help="The data set; see mettle datasets.")]
ROOT = Annotated[Path | None, typer.Option(help="Its folder; by default data/AVE for ave.")]
VISUAL = Annotated[
    str, typer.Option(metavar="NAME[@SIZE][=WEIGHTS]", help="Backbone for frames; WEIGHTS: a file, or random.")
]
AUDIO = Annotated[
    str,
    typer.Option(metavar="NAME[=WEIGHTS]|shared", help="Backbone for sound; shared: the visual one reads the log-mel."),
]
CODEC = Annotated[str, typer.Option(help="float16, int8 or int4.")]
LAYERS = Annotated[
    str | None,
    typer.Option(
        metavar="all|stages|last:N|NAME,...", help="The layers to store; by default those that the task reads."
    ),
]

OPTION = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A choice that the data set offers; see mettle datasets."),
]


def register(app: typer.Typer) -> None:
    app.command("extract", epilog=EPILOG)(extract)


def extract(
    dataset: DATASET,
    root: ROOT = None,
    visual: VISUAL = "swinv2_l",
    audio: AUDIO = "htsat",
    codec: CODEC = "int8",
    layers: LAYERS = None,
    option: OPTION = None,
    out: Annotated[Path | None, typer.Option(help="The store; by default under cache/.")] = None,
    seed: Seed = 0,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on without clips whose media are missing.")
    ] = False,
    part: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for batch systems.")] = "1/1",
    workers: Annotated[int, typer.Option(help="Spread the clips over that many processes here.")] = 0,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://...", help="Spread them over a dask cluster.")] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (autocast).")] = "float32",
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the frozen backbones once and store every layer's tokens. Run again to resume."""
    from mettle_cache.pipelines.extract import run
    from mettle_cache.pipelines.extract.config import ExtractConfig, parse_part
    from mettle_cache.pipelines.progress import terminal_progress

    config = ExtractConfig(
        dataset=dataset,
        root=root,
        visual=visual,
        audio=audio,
        codec=codec,
        layers=layers,
        options=tuple(option or ()),
        out=out,
        seed=seed,
        part=parse_part(part),
        workers=workers,
        scheduler=scheduler,
        skip_missing=skip_missing,
        device=device,
        precision=precision,
    )
    report = run.extract(config, terminal_progress())
    emit(report.to_json(), report_lines(report))
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: ExtractReport) -> list[str]:
    """What was written, what was not, and what to do next."""
    state = "finished" if report.finished else f"{report.pending} clips wait for other parts"
    lines = [
        f"store      {report.store} ({state})",
        f"clips      {report.clips}: {report.written} written, {report.skipped} were there, {report.failed} failed",
        f"written    {format_bytes(report.nbytes)} in {format_seconds(report.seconds)}",
        f"speed      {report.frames_per_second:.1f} frames/s",
        f"memory     {format_bytes(report.peak_memory)} at most (resident set)",
        *(f"failed     {clip}: {reason}" for clip, reason in report.failures.items()),
        *(f"note       {note}" for note in report.notes),
    ]
    if report.finished:
        lines.append(f"next       mettle train --from-cache {report.store}")
    return lines
