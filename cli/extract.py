"""``mettle extract``"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from mettle_cache.cli.extraction_options import EXTRACTION
from mettle_cache.cli.options import Debug, Json, takes
from mettle_cache.cli.output import emit
from mettle_cache.paths import command_line
from mettle_cache.pipelines.report.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.config import ExtractReport

EPILOG = """Examples:

\b
mettle extract --dataset ave
mettle extract --dataset ave --root data/AVE \\
    --visual swinv2_l=swin.safetensors --audio htsat=htsat.ckpt
mettle extract --dataset ave --visual vit_small_patch14_dinov2@224=random \\
    --audio shared --codec int4 --layers stages
mettle extract --dataset avs-s4 --option train_frames=5
mettle extract --dataset ave --limit 10
"""


def register(app: typer.Typer) -> None:
    app.command("extract", epilog=EPILOG)(extract)


@takes(EXTRACTION, *EXTRACTION)
def extract(chosen: Mapping[str, Any], json: Json = False, debug: Debug = False) -> None:
    """Run the frozen backbones once and store every layer's tokens. Run again to resume."""
    from mettle_cache.pipelines.extract.config import ExtractConfig
    from mettle_cache.pipelines.progress import terminal_progress

    config = ExtractConfig(**chosen)
    config.check_names()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.extract import run

    report = run.extract(config, terminal_progress())
    emit(report.to_json(), report_lines(report))
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: ExtractReport) -> list[str]:
    """What was written, what was not, and what to do next."""
    waiting = "clip waits" if report.pending == 1 else "clips wait"
    state = "finished" if report.finished else f"{report.pending} {waiting} for other parts"
    left_out = f", {report.left_out} left out by --limit" if report.left_out else ""
    lines = [
        f"store      {report.store} ({state})",
        f"clips      {report.clips}: {report.written} written, {report.skipped} were there, {report.failed} failed"
        f"{left_out}",
        f"written    {format_bytes(report.nbytes)} in {format_seconds(report.seconds)}",
        f"speed      {report.frames_per_second:.1f} frames/s",
        f"memory     {format_bytes(report.peak_memory)} at most (resident set)",
        *([] if report.precision is None else [f"precision  {report.precision.summary()}"]),
        *(f"failed     {clip}: {reason}" for clip, reason in report.failures.items()),
        *(f"note       {note}" for note in report.notes),
    ]
    if not report.ok:
        lines.append("next       mend these files and run the same command again, or do without them: --skip-missing")
    elif report.finished:
        lines.append(f"next       {command_line('mettle train --from-cache', report.store)}")
    return lines
