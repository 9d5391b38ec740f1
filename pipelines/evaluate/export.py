"""Exporting a run as a head for inference: fold its LCDs, check that its features stay, measure the gain, write it.

The file is one safetensors file that describes itself: the folded LCDs, and the rest of the head as it was. What does
not fold stays as it was trained: an LCD of several steps, or whose meta-tokens the head uses one by one, and any other
method.

:func:`load_exported` gives the whole head back, from the tokens to the decoder's outputs;
:func:`mettle_cache.methods.folded.load_folded` the LCDs alone. Neither needs a store, and the tokens may come in any
codec, or as floats from the backbones themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mettle_cache.companions import Companion
from mettle_cache.devices import choose_device
from mettle_cache.errors import MettleError, RunError, StoreError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.folded import FOLDED_FORMAT, FoldedLCD, fold_lcd, load_folded, read_folded
from mettle_cache.methods.lcd import LCD
from mettle_cache.paths import command_line, local_path
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.timing import Repeats, TimedVariant, time_interleaved
from mettle_cache.pipelines.train.checkpoint import load_checkpoint, load_model, write_tensors
from mettle_cache.pipelines.train.kept_arrays import STATIC, static_of_tensors, static_tensors
from mettle_cache.pipelines.train.kept_companions import (
    COMPANIONS,
    companion_tensors,
    companions_of_tensors,
    kept_companion_paths,
    kept_companions,
)
from mettle_cache.pipelines.train.recipe import Recipe, recipe_from_json
from mettle_cache.pipelines.train.run_folder import RunFolder, hold_run
from mettle_cache.pipelines.train.run_tokens import TokenOptions, open_tokens
from mettle_cache.pipelines.train.sample_loader import SampleBatch, SampleLoader, evaluation_inputs, read_split
from mettle_cache.pipelines.train.task import bind_task, task_on_layers
from mettle_cache.pipelines.train.token_origin import FILE, TOKENS, TokenOrigin
from mettle_cache.sealing import seal
from mettle_cache.store.format.codecs import StaticArrays
from mettle_cache.store.format.files import file_digest
from mettle_cache.store.writing.durable import make_folder
from mettle_cache.tasks.protocol import Task
from mettle_cache.tokens import LayerTokens

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource
    from mettle_cache.store.reading.token_store import TokenStore

# single precision: what is allowed between the features of the folded and of the trained LCD, against their peak
TOLERANCE = 1e-5
REPEATS = 9


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of the whole head for one sample: median, least and most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, repeats: Repeats) -> Timing:
        return cls(median=repeats.median, low=repeats.low, high=repeats.high)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The outcome of an export. Parameters and seconds are those of the whole head.

    ``folded`` counts the layers of each folded LCD by its place. ``kept`` gives the reason of each part, by its place,
    that might have been folded and is in the file as it was trained; both are empty where the ``method`` is not LCD.
    ``difference`` is the largest one between the features of the folded and of the trained LCDs on a sample of the
    store, against their peak. ``device`` and ``threads`` are where the seconds were measured.
    """

    run: Path
    out: Path
    nbytes: int
    method: str
    folded: dict[str, int]
    kept: dict[str, str]
    parameters_before: int
    parameters_after: int
    before: Timing
    after: Timing
    repeats: int
    device: str
    threads: int
    difference: float

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "run": str(self.run), "out": str(self.out)}


def export_run(
    run: Path,
    *,
    out: Path | None = None,
    store: Path | TokenStore | None = None,
    device: str | None = None,
    repeats: int = REPEATS,
) -> ExportReport:
    """Fold the best epoch of ``run`` and write it to ``out``, by default ``RUN/folded.safetensors``.

    Raises
    ------
    UsageError
        ``out`` is a folder, or a file that no export wrote.
    RunError
        The run is missing, damaged or of another store, or rounding makes the folded head another one.
    """
    run = local_path(run)
    config = RunFolder(run).read_config()
    recipe, target = config.load_recipe(), choose_device(device)
    out = run / "folded.safetensors" if out is None else local_path(out)
    _check_place(out, RunFolder(run))
    inside = out.absolute().parent.resolve() == run.resolve()
    with _hold(run) if inside else nullcontext(RunFolder(run)) as folder:
        checkpoint = folder.check(folder.best)
        opened = open_tokens(run, config, TokenOptions(device=device), Silent(), instead=store)
        companions = kept_companions(folder)
        task = bind_task(recipe, opened, companions)
        trained, folded = _load_twice(task, checkpoint, folder.best, target)
        kept = fold_model(folded)
        batch = _one_sample(task, opened, target)
        difference = _compare(trained, folded, list(folded_modules(folded)), batch)
        times = _time_models(trained, folded, batch, target, repeats)
        _save(folder if inside else None, out, partial(_write, folded, task, recipe, opened, checkpoint, companions))
    return ExportReport(
        run=run,
        out=out,
        nbytes=out.stat().st_size,
        method=recipe.method,
        kept=kept,
        folded={name: len(module.layers) for name, module in folded_modules(folded).items()},
        parameters_before=_count(trained),
        parameters_after=_count(folded),
        before=Timing.of(times["before"]),
        after=Timing.of(times["after"]),
        repeats=repeats,
        device=str(target),
        threads=torch.get_num_threads(),
        difference=difference,
    )


@contextmanager
def _hold(run: Path) -> Iterator[RunFolder]:
    """:func:`hold_run`; says where the head of a run that cannot be written to may go."""
    with ExitStack() as held:
        try:
            folder = held.enter_context(hold_run(run))
        except StoreError as error:
            raise RunError(
                f"{run}: the head cannot be written there ({error.message})",
                hint=f"{command_line('mettle export', run, '--out')} FILE writes it elsewhere",
            ) from error
        yield folder


def _save(run: RunFolder | None, out: Path, write: Callable[[Path], None]) -> None:
    """Write an exported head: as one of a run's files, or by itself, where the run is left as it is and not locked."""
    if run is not None:
        run.commit({run.path / out.name: write})
    else:
        make_folder(out.parent)
        write(out)


def _load_twice(task: Task, checkpoint: Path, named: Path, target: torch.device) -> tuple[nn.Module, nn.Module]:
    """The trained head, and once more to be folded; ``named`` is the checkpoint's place, for errors."""
    tensors, _ = load_checkpoint(checkpoint)
    trained, folded = task.build_model(), task.build_model()
    for model in (trained, folded):
        load_model(model, tensors, where=named)
        model.to(target).eval()
    return trained, folded


def fold_model(model: nn.Module) -> dict[str, str]:
    """Put a :class:`FoldedLCD` in the place of every LCD in ``model`` that folds; the reasons of those that stay.

    A model whose head needs more of an LCD than the mean of its meta-tokens says so itself, as ``kept_whole``: places
    and reasons.
    """
    kept: dict[str, str] = dict(getattr(model, "kept_whole", {}))
    for name, module in list(model.named_modules()):
        if not isinstance(module, LCD) or name in kept:
            continue
        try:
            model.set_submodule(name, fold_lcd(module))
        except UsageError as error:
            kept[name] = error.message
    return kept


def _check_place(out: Path, run: RunFolder) -> None:
    """Refuse the places of a run's own files, and to write over what no export wrote."""
    own = [run.config, run.last, run.best, run.metrics, run.result, run.static]
    own += [run.path / FILE, *kept_companion_paths(run)]
    if out.absolute() in [path.absolute() for path in own]:
        raise UsageError(f"{out} is the place of a file of the run", hint="name another file with --out")
    if out.is_dir():
        raise UsageError(f"{out}: the exported head's place is a folder", hint="name a file with --out")
    if out.exists():
        try:
            read_folded(out)
        except RunError as error:
            raise UsageError(
                f"{out} is there already, and is no exported head", hint="name another file with --out"
            ) from error


def load_exported(path: str | Path) -> nn.Module:
    """The whole exported head: from ``{layer name: LayerTokens [B, T, N, D]}`` to the decoder's outputs by name.

    For example::

        head = load_exported("runs/ave-swinv2_l-htsat-ave-swin-htsat-0/folded.safetensors")
        outputs = head(store.read([0]).layers)

    Raises
    ------
    RunError
        The file is missing, damaged, or something else.
    """
    path = local_path(path)
    folded = load_folded(path)
    tensors, table = read_folded(path)
    try:
        companions = companions_of_tensors(table.get(COMPANIONS, {}), tensors)
        model = _task_of(table, companions).build_model()
        for name, module in folded.items():
            model.set_submodule(name, module)
    except (KeyError, TypeError, ValueError, AttributeError, MettleError) as error:
        raise RunError(f"{path}: its description of the head is damaged ({error})") from error
    beside = (f"{STATIC}/", f"{COMPANIONS}/")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(beside)}
    load_model(model, weights, where=path)
    return model.requires_grad_(False).eval()


def load_exported_codec(path: str | Path) -> tuple[str, StaticArrays] | None:
    """The codec whose static arrays are in an exported head, and these by layer name and part; None if there are none.

    With :func:`mettle_cache.store.format.codecs.encode_layers` they encode tokens as those of the training.

    Raises
    ------
    RunError
        As :func:`load_exported`.
    """
    tensors, table = read_folded(local_path(path))
    static = static_of_tensors(tensors)
    return (str(table.get("codec")), static) if static else None


def folded_modules(model: nn.Module) -> dict[str, FoldedLCD]:
    """The folded LCDs of a head by their place in it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FoldedLCD)}


def _write(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    store: TokenSource,
    checkpoint: Path,
    companions: Mapping[str, Companion],
    path: Path,
) -> None:
    """Write a folded head with its description, from which it is built again; whole or not at all."""
    description = {
        "folded": {name: module.to_json() for name, module in folded_modules(model).items()},
        "layers": [asdict(layer) for layer in task.layers],
        "recipe": recipe.to_json(),
        "vocabulary": {name: list(values) for name, values in store.vocabulary.items()},
        "segments": store.segments,
        TOKENS: TokenOrigin.of(store).to_json(),
        "checkpoint": file_digest(checkpoint),
        "store": store.key_digest,
    }
    tensors = model.state_dict()
    if static := static_tensors(store.static, task.layers):
        tensors |= static
        description["codec"] = store.codec
    if companions:
        tensors |= companion_tensors(companions)
        description[COMPANIONS] = {name: dict(companion.description) for name, companion in companions.items()}
    write_tensors(path, tensors, FOLDED_FORMAT, seal(tensors, description))


def _task_of(table: Mapping[str, Any], companions: Mapping[str, Companion]) -> Task:
    """The task of an exported head, by its description."""
    return task_on_layers(
        recipe_from_json(table["recipe"], where="the exported head"),
        TypeAdapter(tuple[LayerSpec, ...]).validate_python(table["layers"]),
        vocabulary=TypeAdapter(dict[str, list[str]]).validate_python(table["vocabulary"]),
        segments=TypeAdapter(int).validate_python(table["segments"]),
        companions=companions,
    )


def _one_sample(task: Task, store: TokenSource, device: torch.device) -> SampleBatch:
    """The first sample that has tokens, on the device."""
    for split in dict.fromkeys(store.samples["split"].to_pylist()):
        rows = read_split(store, split).rows[:1]
        if rows:
            loader = SampleLoader(store, task.layers, device=device, threads=1)
            return next(loader.batches(rows, 1, evaluation_inputs(task, rows)))
    raise UsageError(f"{store.path}: no sample has tokens", hint=f"see: {command_line('mettle info', str(store.path))}")


@torch.no_grad()
def _compare(trained: nn.Module, folded: nn.Module, names: list[str], batch: SampleBatch) -> float:
    """The largest difference between the features of the LCDs before and after, against their peak."""
    worst = 0.0
    for name in names:
        expected, actual = (model.get_submodule(name)(batch.tokens.layers) for model in (trained, folded))
        worst = max(worst, ((actual - expected).abs().max() / expected.abs().max()).item())
    if not worst <= TOLERANCE:
        raise RunError(
            f"the folded head's features differ from the trained one's by {worst:.1e} of their peak, more than "
            f"{TOLERANCE:.0e}: its weights are too extreme for single precision",
            hint="use the run's best.safetensors as it is",
        )
    return worst


def _time_models(
    trained: nn.Module, folded: nn.Module, batch: SampleBatch, device: torch.device, repeats: int
) -> dict[str, Repeats]:
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.tensors.items()}
    layers: Mapping[str, LayerTokens] = batch.tokens.layers

    def run(model: nn.Module) -> dict[str, Tensor]:
        with torch.inference_mode():
            outputs: dict[str, Tensor] = model(layers, **inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return outputs

    variants = [TimedVariant("before", lambda: run(trained)), TimedVariant("after", lambda: run(folded))]
    return time_interleaved(variants, repeats=repeats, progress=Silent())


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
