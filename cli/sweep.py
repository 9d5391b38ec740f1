"""``mettle sweep``"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.group import emit_group
from mettle_cache.cli.options import TRAINED, TRAINING, Debug, Json, OptionalStore, takes
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import page_width, table_lines
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.report.units import count, format_bytes
from mettle_cache.pipelines.train.spec import Variant, combine_variants, parse_seeds

if TYPE_CHECKING:
    from mettle_cache.pipelines.sweeps.start import SweepPlan
    from mettle_cache.pipelines.sweeps.sweep_file import Sweep
    from mettle_cache.pipelines.train.config import TrainJob

EPILOG = """Examples:

\b
mettle sweep table9 --from-cache
mettle sweep table6 --from-cache --rows "K_a=1 K_v=1,K_a=4 K_v=4" \\
    --seeds 0-4 --plan
mettle sweep mine.toml --from-cache --set train.epochs=20
mettle sweep --list
mettle sweep --from-cache --set lcd.k_visual=1,2 \\
    --set train.learning_rate=1e-4,4e-4 --seeds 0-2
mettle sweep --from-cache --variant "" --variant "lcd.norm=false" \\
    --variant "method=linear linear.dim=128"
mettle sweep --from-cache --set "layers=[visual/last:1,audio/last:1],stages"
mettle sweep --from-cache --set "lcd.k_visual=[1,2],[2,2]" \\
    --set train.epochs=20 --out runs/by-stage
"""
UNTRAINED = "Without training"
NAME = typer.Argument(
    metavar="SWEEP",
    help="A table of the papers by its name, or a file of your own.",
    autocompletion=completion.sweeps,
)
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE,VALUE...",
    rich_help_panel=TRAINED,
    help="Values of one key to try; a single one is for all heads. A value with commas goes in brackets: "
    "layers=[a,b],[c,d].",
)
VARIANT = typer.Option(
    "--variant",
    metavar='"KEY=VALUE ..."',
    help="One set of changes to try; empty for none.",
    rich_help_panel=TRAINED,
)
SEEDS = typer.Option(
    metavar="0,1,2|0-4",
    help="Seeds to train every variant with; by default 0, or those of SWEEP.",
    rich_help_panel=TRAINED,
)
ROWS = typer.Option(metavar="ROW,ROW...", help="Of SWEEP these rows only; by default all.", rich_help_panel=TRAINED)
PLAN = typer.Option(
    "--plan", help="Of SWEEP show rows, passes and memory, and train nothing.", rich_help_panel=UNTRAINED
)
LIST = typer.Option("--list", help="Name the sweeps that there are.", rich_help_panel=UNTRAINED)
RESUME = "Go on with the runs in --out, all of them without further options, and begin new ones."


def register(app: typer.Typer) -> None:
    app.command("sweep", cls=OptionalStore, epilog=EPILOG)(sweep)


@takes(
    TRAINING,
    "store",
    "recipe",
    "out",
    "resume",
    "select_on",
    "device",
    "resident",
    "memory",
    "log",
    helps={"resume": RESUME},
)
def sweep(
    chosen: Mapping[str, Any],
    name: Annotated[str | None, NAME] = None,
    set_: Annotated[list[str] | None, SET] = None,
    variant: Annotated[list[str] | None, VARIANT] = None,
    seeds: Annotated[str | None, SEEDS] = None,
    rows: Annotated[str | None, ROWS] = None,
    plan: Annotated[bool, PLAN] = False,
    listing: Annotated[bool, LIST] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train variants of a recipe together, reading every batch once for all of them.

    With SWEEP the variants are the rows of a table, as mettle report shows them afterwards beside the paper's numbers.
    Without it they are all combinations of one --variant and one value of each --set. Each is trained with every seed;
    runs are OUT/VARIANT/seed-N, and each gets the numbers that mettle train would give it alone. Heads that do not fit
    into memory together, or have another batch size or order of samples, take further passes over the store.
    """
    if listing:
        _emit_list()
        return
    several = None if seeds is None else parse_seeds(seeds)
    _check_words(name, variant, rows, plan, chosen["store"])
    variants = combine_variants(set_ or [], variant or [])

    from mettle_cache.pipelines.sweeps.sweep_file import read_sweep
    from mettle_cache.pipelines.train.config import TrainJob

    file = None if name is None else read_sweep(name)
    job = TrainJob(**chosen)
    job.check()  # before PyTorch loads, which takes seconds
    if file is not None:
        only = [row.strip() for row in (rows or "").split(",") if row.strip()]
        _run_file(job, file, variants, plan=plan, rows=only, seeds=several)
    else:
        _run_variants(job, variants, several, given=bool(set_ or variant or seeds))


def _check_words(name: str | None, variant: object, rows: object, plan: bool, store: Path | None) -> None:
    """Refuse options that have no meaning with or without a sweep's name."""
    if name is not None and variant:
        raise UsageError(
            "--variant: the variants of a sweep file are its rows", hint="write a file with rows of your own"
        )
    if name is None and (rows or plan):
        option = "--rows" if rows else "--plan"
        raise UsageError(
            f"{option} is for the rows of a sweep, and none is named", hint="mettle sweep --list names them"
        )
    if name is None and store is not None and not store.exists():
        from mettle_cache.pipelines.train.recipe_file import SWEEP, list_built_in

        if str(store) in list_built_in(SWEEP):
            raise UsageError(f"{store} is a sweep, not a store", hint=f"mettle sweep {store} --from-cache STORE")


def _run_file(job: TrainJob, file: Sweep, variants: Sequence[Variant], *, plan: bool, **options: Any) -> None:
    if len(variants) > 1:
        raise UsageError("--set with several values: the variants of a sweep file are its rows", hint="give one value")

    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.sweeps.start import plan_sweep_file, start_sweep_file

    options["common"] = variants[0].common
    if plan:
        planned = plan_sweep_file(job, file, terminal_progress(), **options)
        emit(planned.to_json(), plan_lines(planned))
        return
    emit_group(start_sweep_file(job, file, terminal_progress(), **options), table=True)


def _run_variants(job: TrainJob, variants: Sequence[Variant], seeds: Sequence[int] | None, *, given: bool) -> None:
    """Train variants, or go on with all that there is where no variant and no seed is ``given``."""
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.job import resume_runs, start_sweep

    if job.runs() and not given:
        emit_group(resume_runs(job, terminal_progress()))
        return
    emit_group(start_sweep(job, variants, [0] if seeds is None else seeds, terminal_progress()))


def plan_lines(plan: SweepPlan) -> list[str]:
    """The heads by row, and the passes that they take."""
    seeds: dict[str, list[str]] = {}
    for spec in plan.specs:
        seeds.setdefault(spec.variant, []).append(str(spec.seed))
    passes = [
        f"pass {number}     {count(len(one), 'head')}, about {format_bytes(needed)} of memory"
        for number, (one, needed) in enumerate(zip(plan.passes.passes, plan.passes.needed, strict=True), start=1)
    ]
    return [
        f"{plan.sweep.name}: {plan.sweep.title}",
        "",
        *table_lines(("row", "seeds"), [(row, ", ".join(numbers)) for row, numbers in seeds.items()]),
        "",
        f"recipe     {plan.recipe}",
        f"folder     {plan.folder}",
        *passes,
        f"memory     {format_bytes(plan.passes.limit)} may be taken",
        *(f"note       {note}" for note in plan.passes.notes()),
    ]


def _emit_list() -> None:
    from mettle_cache.pipelines.sweeps.sweep_file import list_sweeps

    sweeps = list_sweeps()
    document = [
        {"name": one.name, "title": one.title, "source": one.source, "tasks": list(one.tasks), "rows": _names(one)}
        for one in sweeps
    ]
    rows = [
        (one.name, " ".join(one.tasks), len(one.rows), f"{one.title} ({one.source})" if one.source else one.title)
        for one in sweeps
    ]
    emit(document, table_lines(("sweep", "for", "rows", "what varies"), rows, width=page_width()))


def _names(sweep: Sweep) -> Sequence[str]:
    return [row.name for row in sweep.rows]
