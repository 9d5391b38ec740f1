"""``mettle pretrain-grounding``"""

from __future__ import annotations

import re
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli.options import TRAINING, Debug, Json, OptionalStore, path_option, takes
from mettle_cache.cli.output import emit
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import format_bytes

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.grounding import GroundingReport

EPILOG = """Examples:

\b
mettle pretrain-grounding --from-cache
mettle pretrain-grounding --from-cache cache/music-avqa-swinv2_l-htsat.zarr \\
    --out weights/grounding.safetensors
mettle train --from-cache \\
    --set head.init_grounding=weights/grounding.safetensors
"""


def register(app: typer.Typer) -> None:
    app.command("pretrain-grounding", cls=OptionalStore, epilog=EPILOG)(pretrain)


@takes(TRAINING, "store", "seed", "resume", "device", helps={"resume": "Go on with the run of --out."})
def pretrain(
    chosen: Mapping[str, Any],
    out: Annotated[
        Path | None, path_option(text="The .safetensors file; by default under weights/.", metavar="FILE")
    ] = None,
    videos: Annotated[str, typer.Option(metavar="real|all", help="all: the synthetic ones too.")] = "real",
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Passes over the videos.")] = 30,
    learning_rate: Annotated[float, typer.Option(help="Of Adam; a tenth of it every eight epochs.")] = 3e-4,
    videos_a_step: Annotated[int, typer.Option(min=2, max=10_000, help="Each gives ten pairs.")] = 13,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the grounding layers of question answering on matching pictures and sounds of a MUSIC-AVQA store.

    The file, or a published one of the same seven layers, is given to train with --set head.init_grounding=FILE.
    """
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.config import GroundingJob

    job = GroundingJob(
        **chosen,
        out=out,
        videos=videos,  # type: ignore[arg-type]  # checked there
        epochs=epochs,
        learning_rate=learning_rate,
        videos_a_step=videos_a_step,
    )
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.train.grounding import pretrain_grounding

    report = pretrain_grounding(job, terminal_progress())
    emit(report.to_json(), report_lines(report))


def report_lines(report: GroundingReport) -> list[str]:
    """What was written, how good it is, and what to do with it."""
    score = "no val videos" if report.accuracy is None else f"{report.accuracy:.2f} % of the val pairs told rightly"
    return [
        f"written    {report.out}",
        f"best       epoch {report.best_epoch} of {report.epochs}, {score} (50 by chance)",
        f"videos     {', '.join(f'{split} {count}' for split, count in report.videos.items())}",
        f"parameters {report.parameters / 1e6:.2f} M trained",
        f"speed      {report.videos_per_second:.1f} videos/s",
        f"memory     {format_bytes(report.peak_memory_bytes)} at most, {report.peak_memory_of}",
        f"next       {command_line('mettle train --from-cache --set', f'head.init_grounding={_toml(report.out)}')}",
    ]


def _toml(path: Path) -> str:
    """A path as the value of --set: in quotes, unless it is a word that stands for itself."""
    text = str(path)
    return text if re.fullmatch(r"[A-Za-z0-9_./+-]+", text) else dumps(text, ensure_ascii=False)
