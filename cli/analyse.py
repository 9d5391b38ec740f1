"""``mettle analyse``: one subcommand an analysis"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli import completion
from mettle_cache.cli.help_page import App
from mettle_cache.cli.options import Debug, Device, Json, StoreArgument, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.cli.table import table_lines

if TYPE_CHECKING:
    from mettle_cache.pipelines.analysis.layer_similarity import SimilarityReport
    from mettle_cache.pipelines.analysis.layer_tokens import LayerTokenReport

EPILOG = """Examples:

\b
mettle analyse similarity cache/ave-swinv2_l-htsat.zarr --clips 64
mettle analyse fusion runs/molt runs/molt-no-regulariser --json
"""
SIMILARITY_EPILOG = """Examples:

\b
mettle analyse similarity cache/ave-swinv2_l-htsat.zarr
mettle analyse similarity cache/ave-swinv2_l-htsat.zarr --clips 64 --json
"""
FUSION_EPILOG = """Examples:

\b
mettle analyse fusion runs/molt
mettle analyse fusion runs/molt runs/molt-no-regulariser --split val --json
"""
SHOWN = ("layer", "mean", "std", "10 %", "90 %")


def register(app: typer.Typer) -> None:
    group = App()
    group.callback(invoke_without_command=True)(analyse)
    group.command("similarity", epilog=SIMILARITY_EPILOG)(similarity)
    group.command("fusion", epilog=FUSION_EPILOG)(fusion)
    app.add_typer(group, name="analyse", epilog=EPILOG)


def analyse(context: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """Compute what explains a result, from a store or from trained runs."""
    from mettle_cache.errors import UsageError

    if context.invoked_subcommand is None:
        raise UsageError("name an analysis: similarity or fusion", hint="mettle analyse similarity STORE")


def similarity(
    store: StoreArgument,
    clips: Annotated[
        int | None, typer.Option(min=1, help="How many clips to read, evenly over the store; by default all.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how alike the input and the output of each stored layer are: the cosine of every token."""
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.progress import terminal_progress

    require_store(store)

    from mettle_cache.pipelines.analysis.layer_similarity import layer_similarity

    report = layer_similarity(store, clips=clips, progress=terminal_progress())
    emit(report.to_json(), similarity_lines(report))


def fusion(
    runs: Annotated[list[Path], path_argument("Folders of runs trained with method=molt.", metavar="RUN")],
    split: Annotated[
        str, typer.Option(help="The split to go over.", autocompletion=completion.one_of("train", "val", "test"))
    ] = "test",
    store: Annotated[Path | None, path_option(text="The runs' store, where it has moved.", metavar="STORE")] = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how alike a run's layer-wise tokens are, and the weights with which they are fused.

    The JSON document holds the whole cosine maps.
    """
    from mettle_cache.devices import check_device_name
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.progress import terminal_progress
    from mettle_cache.pipelines.train.run_folder import find_runs

    check_device_name(device)
    if store is not None:
        require_store(store)
    folders = [run for folder in runs for run in find_runs(folder)]

    from mettle_cache.pipelines.analysis.layer_tokens import layer_token_facts

    progress = terminal_progress()
    reports = [
        layer_token_facts(folder, split=split, store=store, device=device, progress=progress) for folder in folders
    ]
    emit({"runs": [report.to_json() for report in reports]}, fusion_lines(reports))


def similarity_lines(report: SimilarityReport) -> list[str]:
    """A table of the layers, and why some have no number."""
    rows = [
        (row.layer, *(None if value is None else f"{value:.3f}" for value in (row.mean, row.std, row.low, row.high)))
        for row in report.layers
    ]
    return [
        *table_lines(SHOWN, rows),
        "",
        f"clips      {report.clips}, every token of every segment",
        *(f"without    {row.layer}: {row.reason}" for row in report.layers if row.reason),
        *(f"note       {note}" for note in report.notes),
    ]


def fusion_lines(reports: list[LayerTokenReport]) -> list[str]:
    """Two tables: how alike tokens are, one line a run and modality, and the weight of each layer."""
    alike = [
        (str(report.run), modality, report.options.get("orthogonality"), f"{facts.squared:.4f}")
        for report in reports
        for modality, facts in report.modalities.items()
    ]
    weights = [
        (str(report.run), layer, f"{mean:.3f}", " ".join(f"{value:.3f}" for value in each))
        for report in reports
        for facts in report.modalities.values()
        for layer, mean, each in zip(facts.layers, facts.layer_weights, facts.weights, strict=True)
    ]
    first = reports[0]
    return [
        *table_lines(("run", "tokens of", "orthogonality", "mean squared cosine"), alike),
        "",
        *table_lines(("run", "layer", "weight", "of each token"), weights),
        "",
        f"split      {first.split}, {first.samples} samples",
    ]
