"""``mettle compare-codecs``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.options import TRAINING, Debug, Json, StoreArgument, path_option, takes
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.report.units import format_bytes

if TYPE_CHECKING:
    from mettle_cache.pipelines.compare.report import CodecRow, CompareReport

EPILOG = """Examples:

\b
mettle compare-codecs cache/ave-swinv2_l-htsat-float16.zarr
mettle compare-codecs cache/ave-swinv2_l-htsat-float16.zarr \\
    --codecs int8,klt1.5 --seeds 5 --groups groups.csv
mettle compare-codecs cache/ave-swinv2_l-htsat-float16.zarr \\
    --set lcd.pretrained_branch=linear --out runs/compare-wg
"""
CODECS_TEXT = "What to compare with float16, with commas between; klt0 and clipmean, which must lose, are added."
OUT = "Folder of the finished heads' predictions, which a second run takes; by default under runs/."


def register(app: typer.Typer) -> None:
    app.command("compare-codecs", epilog=EPILOG)(compare_codecs)


@takes(TRAINING, "recipe", "overrides", "out", "device", helps={"out": OUT})
def compare_codecs(
    chosen: Mapping[str, Any],
    store: StoreArgument,
    codecs: Annotated[str, typer.Option(metavar="NAME,NAME...", help=CODECS_TEXT)] = "int8,int4,klt2,klt1.5",
    seeds: Annotated[int, typer.Option(help="How many heads to train on each codec, from seed 0 on.")] = 5,
    split: Annotated[
        str, typer.Option(help="The split to score.", autocompletion=completion.one_of("train", "val", "test"))
    ] = "test",
    groups: Annotated[
        Path | None,
        path_option(
            text="CSV of clips that are not independent: clip, and a column for each thing that they share.",
            metavar="FILE",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the recipe's head on each codec of a float16 store, and say what the codec costs in points.

    Heads are paired by seed: same first weights, batches and dropout. The interval of the mean difference is over seeds
    and over test clips, or over groups of clips that share something, the widest of them. The last epoch counts.
    """
    from mettle_cache.pipelines.compare.config import CompareJob
    from mettle_cache.pipelines.progress import terminal_progress

    names = tuple(name.strip() for name in codecs.split(",") if name.strip())
    job = CompareJob(store=store, codecs=names, seeds=seeds, split=split, groups=groups, **chosen)
    job.check()  # before PyTorch loads, which takes seconds

    from mettle_cache.pipelines.compare.comparison import compare_codecs as compare

    report = compare(job, terminal_progress())
    emit(report.to_json(), report_lines(report))


def report_lines(report: CompareReport) -> list[str]:
    """The table, what it may be read as, and what it is of."""
    header = ("codec", "a clip", f"{report.split} {report.metric}", "difference", "95 % interval", "over", "changed")
    floors = ", ".join(f"{name} {value:.2f}" for name, value in report.floors.items())
    grouped = ", ".join(f"{count} by {name}" for name, count in report.groups.items())
    return [
        *table_lines(header, [_cells(row) for row in report.rows]),
        "",
        *(f"verdict    {sentence}" for sentence in verdicts(report)),
        f"floor      {floors}",
        f"heads      {report.seeds} seeds a codec, {report.epochs} epochs, recipe {report.recipe}; two float16 seeds "
        f"differ in {100 * report.seeds_change:.1f} % of predictions",
        f"samples    {report.samples} of {report.split}; groups: {grouped}",
        *(f"note       {note}" for note in report.notes),
        f"kept       {report.out}",
    ]


def verdicts(report: CompareReport) -> list[str]:
    """What the table says of each codec, and whether it can say anything."""
    if not report.judges:
        return ["this set cannot judge any codec: the clip's mean token alone loses nothing that can be told"]
    lines = []
    if not report.judges_klt:
        lines.append("this set cannot judge klt: each frame's mean token alone (klt0) loses nothing that can be told")
    for row in report.rows:
        if row.difference is None or row.codec in ("klt0", "clipmean"):
            continue
        if row.codec.startswith("klt") and not report.judges_klt:
            continue
        lines.append(f"{row.codec}: {_judgement(row)}")
    return lines


def _judgement(row: CodecRow) -> str:
    if row.without_loss:
        return "less than a point is lost, if anything"
    return "it loses" if row.loses else "a loss of more than a point cannot be excluded"


def _cells(row: CodecRow) -> tuple[str | None, ...]:
    size = None if row.clip_bytes is None else format_bytes(row.clip_bytes)
    score = f"{row.score:.2f} ± {row.spread:.2f}"
    if row.difference is None:
        return row.codec, size, score, None, None, None, None
    one = row.difference
    interval = f"{one.low:+.2f} to {one.high:+.2f}"
    return row.codec, size, score, f"{one.mean:+.2f}", interval, one.grouped_by, f"{100 * row.changed:.1f} %"
