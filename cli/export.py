"""``mettle export``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mettle_cache.cli.options import Debug, Device, Json, path_argument, path_option
from mettle_cache.cli.output import emit
from mettle_cache.pipelines.report.units import format_bytes

if TYPE_CHECKING:
    from mettle_cache.pipelines.evaluate.export import ExportReport, Timing

EPILOG = """Examples:

\b
mettle export runs/ave-swinv2_l-htsat-ave-swin-htsat-0
mettle export runs/ave-swinv2_l-htsat-ave-swin-htsat-0 \\
    --out heads/ave.safetensors --json

Then, in Python:

\b
from mettle_cache.pipelines.evaluate import load_exported
from mettle_cache.store import TokenStore
store = TokenStore.open("cache/ave-swinv2_l-htsat.zarr")
head = load_exported("heads/ave.safetensors")
outputs = head(store.read([store.clips[0]]).layers)
"""


def register(app: typer.Typer) -> None:
    app.command("export", epilog=EPILOG)(export)


def export(
    run: Annotated[Path, path_argument("The folder of a training run.", metavar="RUN")],
    out: Annotated[
        Path | None, path_option(text="The file to write; by default RUN/folded.safetensors.", metavar="FILE")
    ] = None,
    store: Annotated[Path | None, path_option(text="The run's store, where it has moved.", metavar="STORE")] = None,
    device: Device = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fold a trained head for inference: the same outputs from fewer weights, in one file that needs no store.

    With one distillation step (R = 1) the queries do not depend on the tokens, so most of the attention's weights
    multiply out. What does not fold stays in the file as it was trained, and the report says why: an LCD of more
    steps, or whose meta-tokens the head uses one by one, and any other method.
    """
    from mettle_cache.devices import check_device_name
    from mettle_cache.pipelines.places import require_store
    from mettle_cache.pipelines.train.run_folder import RunFolder

    # before PyTorch loads, which takes seconds
    check_device_name(device)
    RunFolder(run).read_config()
    if store is not None:
        require_store(store)

    from mettle_cache.pipelines.evaluate.export import export_run

    report = export_run(run, out=out, store=store, device=device)
    emit(report.to_json(), report_lines(report))


def report_lines(report: ExportReport) -> list[str]:
    """What folding changed, and that it changed no output."""
    ratio = report.before.median / report.after.median
    folded = ", ".join(f"{name} ({layers} layers)" for name, layers in report.folded.items())
    measured = f"one sample, median of {report.repeats}, {report.device}, {report.threads} threads"
    written = f"written    {report.out} ({format_bytes(report.nbytes)})"
    kept = [f"kept       {name} as it was trained: {reason}" for name, reason in report.kept.items()]
    if not folded:
        nothing = "" if kept else f": the method {report.method} has nothing to fold"
        return [
            f"folded     nothing{nothing}; the file holds the head as it was trained",
            *kept,
            f"parameters {report.parameters_after / 1e6:.2f} M",
            f"latency    {_seconds(report.after)}; {measured}",
            written,
        ]
    return [
        f"folded     {folded}",
        *kept,
        f"parameters {report.parameters_before / 1e6:.2f} M before, {report.parameters_after / 1e6:.2f} M after",
        f"latency    {_seconds(report.before)} before, {_seconds(report.after)} after ({ratio:.1f} times faster); "
        f"{measured}",
        f"difference {report.difference:.1e} of the features' peak at most",
        written,
    ]


def _seconds(timing: Timing) -> str:
    return f"{1000 * timing.median:.2f} ms ({1000 * timing.low:.2f} to {1000 * timing.high:.2f})"
