"""``mettle plan``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.extraction_options import EXTRACTION
from mettle_cache.cli.options import RUNS, TRAINED, Debug, Json, parse_size, takes
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines
from mettle_cache.pipelines.report.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from mettle_cache.pipelines.extract.bills import Bill
    from mettle_cache.pipelines.extract.plan import PlanReport
    from mettle_cache.pipelines.report.method_plan import MethodPlan

EPILOG = """Examples:

\b
mettle plan --dataset ave --root data/AVE
mettle plan --dataset ave --codec int4 --layers stages --no-measure --json
mettle plan --dataset ave --limit 10
mettle plan --dataset ave --disk-test 50GB
mettle plan --dataset ave --method direct
mettle plan --dataset avs-s4 --set head.lcd_levels=[1,4]
"""
PLANNED = (
    "dataset",
    "root",
    "visual",
    "audio",
    "codec",
    "layers",
    "clips_per_shard",
    "options",
    "limit",
    "out",
    "device",
    "precision",
)


MEASURE = typer.Option("--measure/--no-measure", help="Time media, a forward pass and the disk.", rich_help_panel=RUNS)


DISK_TEST = typer.Option(
    parser=parse_size,
    metavar="SIZE",
    help="Write that much to test the disk, past its fast cache; by default 3 seconds, 4GB at most.",
    rich_help_panel=RUNS,
)


SET = typer.Option("--set", metavar="KEY=VALUE", help="Change one key of that recipe.", rich_help_panel=TRAINED)


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=EPILOG)(plan)


@takes(
    EXTRACTION,
    *PLANNED,
    helps={"out": "Where the store would go.", "limit": "Only the first N clips of each split, as extract would."},
)
def plan(
    chosen: Mapping[str, Any],
    measure: Annotated[bool, MEASURE] = True,
    disk_test: Annotated[int | None, DISK_TEST] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Also say what storing just the layers of this method costs, and what training it takes.",
            rich_help_panel=TRAINED,
            autocompletion=completion.methods,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The recipe that the method is in; by default what fits the backbones.",
            autocompletion=completion.recipes,
            rich_help_panel=TRAINED,
        ),
    ] = None,
    set_: Annotated[list[str] | None, SET] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what an extraction would cost, before anything runs. Exit code 1 if it could not start."""
    from mettle_cache.pipelines.extract.config import ExtractConfig
    from mettle_cache.pipelines.progress import terminal_progress

    config = ExtractConfig(**chosen)
    config.check_names()  # before PyTorch loads, which takes seconds

    asked = bool(method or recipe or set_)
    if asked:
        from mettle_cache.pipelines.report.method_plan import load_method_recipe, plan_method

        load_method_recipe(config, method=method, recipe=recipe, overrides=set_ or ())  # before anything is measured

    from mettle_cache.pipelines.extract.plan import make_plan

    report = make_plan(config, measure=measure, disk_test=disk_test, progress=terminal_progress())
    document, lines = report.to_json(), report_lines(report)
    if asked:
        of_method = plan_method(config, report, method=method, recipe=recipe, overrides=set_ or ())
        document, lines = {**document, "method": of_method.to_json()}, [*lines, "", *method_lines(of_method)]
    emit(document, lines)
    if not report.ok:
        raise typer.Exit(1)


def report_lines(report: PlanReport) -> list[str]:
    """The bill as tables and a verdict."""
    chosen = report.chosen
    lines = [
        f"{report.dataset} in {report.root}: {report.clips} clips, {report.rows} rows, {report.segments} segments each",
        "",
        *_stage_table(report),
        "",
        *_bill_lines(report.bills),
        "",
        f"chosen     {chosen.layers} at {chosen.codec}: {format_bytes(chosen.nbytes)} in {chosen.files:,} files",
        f"disk       {format_bytes(report.free)} free: {'fits' if chosen.fits else 'does NOT fit'} ({report.out})",
    ]
    if report.hours is not None:
        lines.append(f"extraction about {format_seconds(report.hours * 3600)} on {report.device}")
    if report.writing:
        lines.append(f"writes     {report.writing}")
    if report.rates.device is not None:
        lines.append(f"bound      {report.bound}")
    lines.append(f"crossover  {report.verdict}")
    if report.online is not None:
        lines.append(f"online     without a store: {report.online}")
    lines += [f"note       {note}" for note in report.notes]
    if report.missing:
        lines.append(f"missing    media of {report.missing} clips: mettle extract lists them")
    return lines


def method_lines(plan: MethodPlan) -> Iterator[str]:
    """What the method reads, its bill by codec, and what is missing for it."""
    yield f"{plan.method} (recipe {plan.recipe}) needs {len(plan.layers)} layers: --layers {plan.selection}"
    yield ""
    yield from _bill_lines(plan.bills)
    if plan.pooled:
        yield (
            f"pooled     {', '.join(plan.pooled)} beside the store: {format_bytes(plan.pooled_bytes)} more; heads then "
            "read these alone"
        )
    yield (
        f"training   about {format_bytes(plan.training_bytes)} of memory at batch {plan.batch_size}, {plan.codec}, for "
        f"{plan.parameters / 1e6:.2f} M weights; the libraries come on top"
    )
    yield f"tokens     {plan.tokens}"
    for name, nbytes in plan.companions.items():
        yield f"companion  {name} beside the store{f': about {format_bytes(nbytes)}' if nbytes else ''}"
    yield from (f"missing    {note}" for note in plan.notes())


def _stage_table(report: PlanReport) -> list[str]:
    codecs = list(report.stages[0].clip_bytes)
    header = ("stage", "layers", "N", "D", *(f"{codec} a clip" for codec in codecs))
    rows = [
        (stage.array, stage.layers, stage.tokens, stage.width, *map(format_bytes, stage.clip_bytes.values()))
        for stage in report.stages
    ]
    return table_lines(header, rows)


def _bill_lines(bills: Sequence[Bill]) -> list[str]:
    header = ("layers", "codec", "a clip", "static", "in all", "files", "fits", "read clips/s")
    rows = [
        (
            bill.layers,
            bill.codec,
            format_bytes(bill.clip_bytes),
            format_bytes(bill.static_bytes) if bill.static_bytes else None,
            format_bytes(bill.nbytes),
            bill.files,
            "yes" if bill.fits else "no",
            None if bill.reads_per_second is None else format_rate(bill.reads_per_second),
        )
        for bill in bills
    ]
    return table_lines(header, rows)
