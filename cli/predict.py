"""``mettle predict``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Device, Json, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.pipelines.report.units import count

if TYPE_CHECKING:
    from mettle_cache.pipelines.predict.config import PredictReport

EPILOG = """Examples:

\b
mettle predict runs/ave-swinv2_l-htsat-ave-swin-htsat-0 holiday.mp4
mettle predict heads/ave.safetensors VIDEOS --out answers
mettle predict runs/music band.mp4 --question "Where is the performance?"
"""
_EVENTS = 8


Run = Annotated[Path, path_argument("A training run's folder, or a head that export wrote.", metavar="RUN")]
Files = Annotated[
    list[Path],
    path_argument("Videos, folders of numbered pictures beside their sound, or folders of these.", metavar="FILE"),
]
Out = Annotated[Path | None, path_option(text="Where the results go; by default predictions/ and the run's name.")]
Question = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="What is asked of every file; may be given again.")
]
Visual = Annotated[
    str | None, typer.Option(metavar="NAME=FILE", help="The backbone's weights, where they are not found.")
]
Audio = Annotated[str | None, typer.Option(metavar="NAME=FILE", help="The same for sound.")]
Sound = Annotated[Path | None, path_option(text="The recording of the one file that is named.", metavar="FILE")]
OneClip = Annotated[
    bool, typer.Option("--one-clip", help="Read each file as extraction reads a clip, whatever its length.")
]
FillMissing = Annotated[
    bool, typer.Option("--fill-missing", help="Silence, or black pictures, for a file that has none.")
]
Pictures = Annotated[bool, typer.Option(help="Draw timelines, overlays and where the head looked.")]
Store = Annotated[
    Path | None, path_option(text="The run's store, which runs of earlier versions need.", metavar="STORE")
]


def register(app: typer.Typer) -> None:
    app.command("predict", epilog=EPILOG)(predict)


def predict(
    run: Run,
    files: Files,
    out: Out = None,
    question: Question = None,
    visual: Visual = None,
    audio: Audio = None,
    sound: Sound = None,
    one_clip: OneClip = False,
    fill_missing: FillMissing = False,
    pictures: Pictures = True,
    store: Store = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer about new videos of any length with a trained head: events, masks or answers.

    The store's own backbones run again, from weights with the digest that the store recorded.
    """
    from mettle_cache.pipelines.predict.config import PredictConfig

    config = PredictConfig(
        run=run,
        files=tuple(files),
        out=out,
        store=store,
        visual=visual,
        audio=audio,
        questions=tuple(question or ()),
        sound=sound,
        one_clip=one_clip,
        fill_missing=fill_missing,
        pictures=pictures,
        device=device,
    )
    # before PyTorch loads, which takes seconds
    config.check()

    from mettle_cache.pipelines.predict.files import predict_files
    from mettle_cache.pipelines.progress import terminal_progress

    report = predict_files(config, terminal_progress())
    emit(report.to_json(), report_lines(report))
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: PredictReport) -> list[str]:
    """What was found in each file, what it took, and what could not be read."""
    lines = [line for row in report.answered for line in _row_lines(row)]
    windows = int(report.timing["windows"])
    timing = ", ".join(f"{report.timing[part]:.3f} s {part}" for part in ("decoding", "backbones", "head"))
    return [
        *lines,
        *([f"time       {count(windows, 'window')}, each {timing}"] if windows else []),
        *(f"note       {note}" for note in report.notes),
        *([f"written    {report.out}"] if report.answered else []),
        *(f"failed     {message}" for message in report.failures.values()),
    ]


def _row_lines(row: dict[str, object]) -> list[str]:
    """A file, and the first of its events."""
    filled = f", {row['filled']} in the place of what it lacks" if row["filled"] else ""
    lines = [f"{row['file']} ({row['seconds']:.1f} s{filled})"]
    events = row.get("events")
    if isinstance(events, list):
        lines += [
            "  {start:>4} to {end:<4} s  {modality:<6} {label} {score:.2f}".format(**event)
            for event in events[:_EVENTS]
        ]
        more = len(events) - _EVENTS
        lines += [f"  and {count(more, 'more event')}"] if more > 0 else []
        lines += [] if events else ["  nothing found"]
    if isinstance(shares := row.get("foreground"), list):
        sounding = sum(share > 0 for share in shares)
        mean = 100 * sum(shares) / len(shares)
        lines.append(f"  a mask in {sounding} of {len(shares)} s, {mean:.1f} % of the picture on average")
    if "question" in row:
        lines.append(f"  {row['question']}? {row['answer']} ({row['probability']:.2f})")
    return lines
