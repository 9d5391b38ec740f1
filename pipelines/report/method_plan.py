"""What a store for one method alone would cost: just the layers that its head reads, and what lies beside them.

Stage one knows no method, so this stands beside the plan of an extraction and not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from mettle_cache.backbones.factory import parse_backbone
from mettle_cache.companions import Companion
from mettle_cache.datasets import DATASETS
from mettle_cache.devices import choose_device
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import planned_bundles
from mettle_cache.layers import MODALITIES, LayerSpec, select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.registry import method_kind
from mettle_cache.pipelines.companions.pooled_table import companion_bytes, pooled_tables
from mettle_cache.pipelines.extract.bills import Bill, layer_bill
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.plan import PlanReport
from mettle_cache.pipelines.report.methods import backbone_layers, task_on_backbones
from mettle_cache.pipelines.train.foretold import training_bytes
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe
from mettle_cache.pipelines.train.residency import foretell_residence
from mettle_cache.preprocessing import SHARED
from mettle_cache.store.format.codecs import CODECS
from mettle_cache.tasks.protocol import Task
from mettle_cache.tasks.registry import TASKS, get_task


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """The cost of storing what one recipe's head reads.

    ``layers`` are what has to be stored, ``selection`` says them for ``--layers``. ``missing`` are those of them that
    the planned extraction would not store, ``unselected`` those that the recipe's own ``layers`` leave out. ``pooled``
    are companions with coarser grids, which stand for whole layers while heads train; they take ``pooled_bytes``.
    ``parameters`` are trained, with ``batch_size`` samples a step in about ``training_bytes`` of memory: what holds a
    weight, and two batches in the codec ``codec`` (:func:`~mettle_cache.pipelines.train.foretold.training_bytes`). The
    libraries come on top. ``tokens`` says where the tokens of all clips would stay on this machine while a head trains,
    the ``resident`` tier, and what that gives. ``companions`` are further files beside the store, and about the bytes
    of each.
    """

    method: str
    recipe: str
    layers: tuple[str, ...]
    selection: str
    missing: tuple[str, ...]
    unselected: tuple[str, ...]
    bills: tuple[Bill, ...]
    pooled: tuple[str, ...]
    pooled_bytes: int
    parameters: int
    batch_size: int
    codec: str
    training_bytes: int
    resident: str
    tokens: str
    companions: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def notes(self) -> Iterator[str]:
        """What stands between the planned extraction and this head, in words with what to do."""
        if self.missing:
            yield (
                f"{self.method} needs {_list(self.missing)}, which this extraction would not store: "
                f"--layers {self.selection}"
            )
        if self.unselected:
            yield (
                f"the recipe {self.recipe} selects no {_list(self.unselected)}: train with "
                f"--set layers={self.selection}"
            )


def plan_method(
    config: ExtractConfig,
    report: PlanReport,
    *,
    method: str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
) -> MethodPlan:
    """The cost of a store of just what ``method`` reads, by codec.

    Parameters
    ----------
    report
        The plan of the extraction, for its clips and its disk.
    method, recipe
        None: the method of the recipe, which is that of the published row of these backbones, or else the data set's.

    Raises
    ------
    UsageError
        No task is for the data set, there is no such recipe or method, or it takes no layers of these backbones.
    ConfigError
        Everything that is wrong with the recipe and its overrides.
    """
    loaded = load_method_recipe(config, method=method, recipe=recipe, overrides=overrides)
    offered = _offered(config)
    selected = select_layers(offered, loaded.layers)
    task = _task_on(loaded, selected, offered)
    selection = _workable_selection(loaded, task.layers, offered)
    layers = select_layers(offered, selection)
    names = tuple(layer.name for layer in layers)
    bills, parameters = _bills(config, report, layers, selection), _count_trained(task)
    training = training_bytes([parameters], _batch_bytes(config, report, loaded, bills))
    return MethodPlan(
        method=loaded.method,
        recipe=loaded.name,
        layers=names,
        selection=selection,
        missing=_lacking(names, select_layers(offered, config.layer_selection)),
        unselected=_lacking(names, selected),
        bills=bills,
        pooled=tuple(table.stem for table in pooled_tables(task.layers, task.pooled)),
        pooled_bytes=_pooled_bytes(report, task),
        parameters=parameters,
        batch_size=loaded.train.batch_size,
        codec=config.codec_choice.name,
        training_bytes=training,
        **_residence(config, report, task, bills, training),
        companions=_companion_files(loaded, layers, offered),
    )


def _lacking(names: Sequence[str], layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    there = {layer.name for layer in layers}
    return tuple(name for name in names if name not in there)


def _residence(
    config: ExtractConfig, report: PlanReport, task: Task, bills: Sequence[Bill], training: int
) -> dict[str, str]:
    """Where the tokens of all clips would stay beside the bytes of training, and what that gives."""
    whole = set(task.layers) - {each.layer for each in task.pooled}
    nbytes = (report.clips * _clip_bytes(config, bills) if whole else 0) + _pooled_bytes(report, task)
    device, speed = choose_device(config.device), report.disk_bytes_per_second
    tier, words = foretell_residence(nbytes, device, training=training, disk_speed=speed)
    return {"resident": tier, "tokens": words}


def _pooled_bytes(report: PlanReport, task: Task) -> int:
    return companion_bytes(task.layers, task.pooled, report.segments, report.clips)


def _batch_bytes(config: ExtractConfig, report: PlanReport, recipe: Recipe, bills: Sequence[Bill]) -> int:
    """A training batch as it is stored."""
    # a video of several frames that are clips of their own is one sample
    return _clip_bytes(config, bills) * recipe.train.batch_size * max(1, report.clips // max(1, report.rows))


def _clip_bytes(config: ExtractConfig, bills: Sequence[Bill]) -> int:
    (clip_bytes,) = [bill.clip_bytes for bill in bills if bill.codec == config.codec_choice.name]
    return clip_bytes


def _count_trained(task: Task) -> int:
    with on_meta():
        model = task.build_model()
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _bills(config: ExtractConfig, report: PlanReport, layers: Sequence[LayerSpec], selection: str) -> tuple[Bill, ...]:
    """What these layers cost in each codec."""
    return tuple(
        layer_bill(
            *(layers, selection, codec),
            dataset=report.dataset,
            clips=report.clips + report.left_out,
            taken=report.taken,
            segments=report.segments,
            clips_per_shard=config.clips_per_shard,
            free=report.free,
            speed=report.disk_bytes_per_second,
        )
        for codec in CODECS.names()
    )


def load_method_recipe(
    config: ExtractConfig, *, method: str | None, recipe: str | None, overrides: Sequence[str]
) -> Recipe:
    """The recipe with its method and overrides; needs nothing that is slow to load. Raises as :func:`plan_method`."""
    row = DATASETS.row(config.dataset)
    if row.task is None:
        raise UsageError(
            f"no task is for the data set '{config.dataset}', so no method reads a store of it",
            hint="leave --method, --recipe and --set away",
        )
    name = recipe or _default_recipe(config, row.task, row.recipe)
    loaded = load_recipe(name, [*([f"method={method}"] if method else []), *overrides])
    if loaded.task != row.task:
        raise UsageError(
            f"recipe {loaded.name} is for {loaded.task}, which does not take the data set '{config.dataset}'",
            hint=f"name one for {row.task}, or leave --recipe away",
        )
    return loaded


def selection_of(layers: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> str:
    """The shortest selection of ``offered`` that gives ``layers``, in the words of ``--layers``."""
    names = {layer.name for layer in layers}
    by_modality = {
        modality: (
            [layer for layer in layers if layer.modality == modality],
            [layer for layer in offered if layer.modality == modality],
        )
        for modality in MODALITIES
    }
    rules = ("all", "stages", "pyramid", *(f"last:{len(read)}" for read, _ in by_modality.values() if read))
    for rule in rules:
        if names == {layer.name for layer in _select(offered, rule)}:
            return rule
    return ",".join(_of_modality(modality, *pair) for modality, pair in by_modality.items() if pair[0])


def _workable_selection(recipe: Recipe, layers: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> str:
    """The selection of just these layers, or of a few more where the task counts levels and wants those between."""
    for selection in (selection_of(layers, offered), "pyramid"):
        try:
            bound = task_on_backbones(recipe, select_layers(offered, selection), planned_bundles(offered))
            if bound.layers == tuple(layers):
                return selection
        except UsageError:
            continue
    return "all"


def _of_modality(modality: str, layers: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> str:
    names = {layer.name for layer in layers}
    for rule in (modality, f"{modality}/stages", f"{modality}/pyramid", f"{modality}/last:{len(layers)}"):
        if names == {layer.name for layer in _select(offered, rule)}:
            return rule
    return ",".join(layer.name for layer in layers)


def _select(offered: Sequence[LayerSpec], rule: str) -> Sequence[LayerSpec]:
    """The layers of a rule, none where it asks for more than there are."""
    try:
        return select_layers(offered, rule)
    except UsageError:
        return ()


def _offered(config: ExtractConfig) -> tuple[LayerSpec, ...]:
    audio = SHARED if config.shared else parse_backbone(config.audio).name
    return backbone_layers(parse_backbone(config.visual).name, audio)


def _default_recipe(config: ExtractConfig, task: str, otherwise: str) -> str:
    pair = (parse_backbone(config.visual).name, SHARED if config.shared else parse_backbone(config.audio).name)
    published = [
        row.setting
        for row in get_task(task).published
        if row.dataset == config.dataset and (row.visual, row.audio) == pair
    ]
    return next((name for name in (*published, otherwise, TASKS.row(task).recipe) if name), "")


def _task_on(recipe: Recipe, selected: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> Task:
    """The task on the recipe's layers or, where it lacks some of them, on all."""
    try:
        return task_on_backbones(recipe, selected, planned_bundles(offered))
    except UsageError:
        return task_on_backbones(recipe, offered, planned_bundles(offered))


def _companion_files(recipe: Recipe, layers: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> dict[str, int]:
    """The files that the method needs beside a store of ``layers``, and about their bytes; 0 for unknown ones."""
    if not method_kind(recipe.method).reads_companions:
        return {}
    bundles = planned_bundles(offered)
    with on_meta():
        method = recipe.method_choice(bundles).build(layers)
    return {name: _bytes(bundles[name]) if name in bundles else 0 for name in method.companions}


def _bytes(companion: Companion) -> int:
    """Of a companion's float32 tensors. A plain block stands for a late bundle, whose attention bias is 2 % at most."""
    return 4 * sum(math.prod(shape) for shape in companion.shapes.values())


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
