"""What methods there are: what each one is, reads and costs, on two backbones and for one task, without any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from torch import nn

from mettle_cache.backbones.factory import layer_table
from mettle_cache.companions import Companion
from mettle_cache.errors import MettleError, UsageError
from mettle_cache.late_bundle import planned_bundles
from mettle_cache.layers import MODALITIES, LayerSpec, select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.methods.registry import METHODS, MethodChoice, method_kind
from mettle_cache.pipelines.report.option_docs import OptionDoc, option_docs
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe
from mettle_cache.pipelines.train.task import task_on_layers
from mettle_cache.preprocessing import SHARED
from mettle_cache.tasks.protocol import Task
from mettle_cache.tasks.registry import TASKS, get_task

DEFAULT_TASK = "avel"
DEFAULT_BACKBONES = ("swinv2_l", "htsat")


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """One method.

    ``layers`` says what is read of those that the recipe selects. ``parameters`` are the method's own, None where the
    task's head is not built around a whole one (segmentation), ``head`` those of the whole head with its decoder; both
    None, and ``problem`` the reason, where it cannot be built so.
    ``presets`` are the values of its option of that name.
    """

    name: str
    summary: str
    source: str
    tasks: tuple[str, ...]
    layers: str
    companions: tuple[str, ...]
    parameters: int | None
    head: int | None
    presets: tuple[str, ...]
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class MethodsReport:
    """The methods on one pair of backbones, with the recipe that gave their options and the head's."""

    task: str
    backbones: tuple[str, str]
    recipe: str
    methods: tuple[MethodInfo, ...]
    options: dict[str, list[OptionDoc]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def methods_report(
    names: Sequence[str] = (), *, task: str = DEFAULT_TASK, backbones: tuple[str, str] = DEFAULT_BACKBONES
) -> MethodsReport:
    """The methods called so, with their options; or all of them, without.

    Parameters
    ----------
    task
        Whose head the methods are counted in.
    backbones
        Of pictures and of sound; sound may be ``shared``.

    Raises
    ------
    UsageError
        No such method, task or backbone.
    """
    recipe = _recipe_for(task, backbones)
    layers = backbone_layers(*backbones)
    kinds = {name: method_kind(name) for name in names}
    return MethodsReport(
        task=task,
        backbones=backbones,
        recipe=recipe,
        methods=tuple(_describe(name, task, recipe, layers) for name in names or METHODS.names()),
        options={name: option_docs(kind.options_type) for name, kind in kinds.items()},
    )


def backbone_layers(visual: str, audio: str) -> tuple[LayerSpec, ...]:
    """The layers of both backbones; those of the visual one twice where it is shared. Raises UsageError."""
    return (*layer_table(visual, "visual"), *layer_table(visual if audio == SHARED else audio, "audio"))


def parse_backbones(text: str) -> tuple[str, str]:
    """``swinv2_l,htsat`` or ``swinv2_l,shared``.

    Raises
    ------
    UsageError
        Not two names.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UsageError(
            f"--backbones {text}: must be two names, of pictures and of sound",
            hint="for example --backbones swinv2_l,htsat or --backbones swinv2_l,shared",
        )
    return names[0], names[1]


def accepting_tasks(method: str) -> tuple[str, ...]:
    """The tasks that take this method."""
    accepted = {name: get_task(name).methods for name in TASKS.names()}
    return tuple(name for name, methods in accepted.items() if methods is None or method in methods)


def layers_in_words(read: Sequence[LayerSpec], offered: Sequence[LayerSpec]) -> str:
    """For example ``all (24 + 12)``, ``the last (1 + 1)``, ``the last 6 (6 + 6)``, ``stages (4 + 4)``."""
    counts = [sum(layer.modality == modality for layer in read) for modality in MODALITIES]
    names = {layer.name for layer in read}
    most = max(counts)
    selections = {"all": "all", f"last:{max(most, 1)}": f"the last {most}", "last:1": "the last", "stages": "stages"}
    for selection, words in selections.items():
        if names == {layer.name for layer in select_layers(offered, selection)}:
            return f"{words} ({counts[0]} + {counts[1]})"
    ends = {members[-1].name for members in _by_modality(offered)}
    words = "all but the last " if names == {layer.name for layer in offered} - ends else ""
    return f"{words}({counts[0]} + {counts[1]})" if words else f"{counts[0]} + {counts[1]}"


def _by_modality(layers: Sequence[LayerSpec]) -> list[list[LayerSpec]]:
    """The layers of each modality that has any."""
    groups = [[layer for layer in layers if layer.modality == modality] for modality in MODALITIES]
    return [members for members in groups if members]


def _recipe_for(task: str, backbones: tuple[str, str]) -> str:
    """The recipe of the task's published row of these backbones, of its first row, or the task's default one."""
    rows = get_task(task).published
    fitting = [row.setting for row in rows if (row.visual, row.audio) == backbones]
    chosen = [*fitting, *(row.setting for row in rows), TASKS.row(task).recipe]
    if not chosen[0]:
        raise UsageError(f"the task {task} names no recipe, so there is no head to count its methods in")
    return chosen[0]


def _describe(name: str, task: str, recipe: str, layers: Sequence[LayerSpec]) -> MethodInfo:
    row = METHODS.row(name)
    words: str = "-"
    companions: tuple[str, ...] = ()
    parameters = head = None
    problem = ""
    presets: tuple[str, ...] = ()
    try:
        presets = _presets(method_kind(name).options_type)
        loaded = load_recipe(recipe, [f"method={name}"])
        offered = select_layers(layers, loaded.layers)
        bundles = planned_bundles(layers)
        bound = task_on_backbones(loaded, offered, bundles)
        words = layers_in_words(bound.layers, offered)
        if {layer.name for layer in bound.layers} == {pooled.layer.name for pooled in bound.pooled}:
            words += ", pooled"
        with on_meta():
            head = _count(bound.build_model())
        companions, parameters = _count_alone(loaded.method_choice(bundles), offered)
    except MettleError as error:
        problem = error.message
    return MethodInfo(
        name=name,
        summary=row.summary,
        source=row.source,
        tasks=accepting_tasks(name),
        layers=words,
        companions=companions,
        parameters=parameters,
        head=head,
        presets=presets,
        problem=problem,
    )


def _count_alone(choice: MethodChoice, layers: Sequence[LayerSpec]) -> tuple[tuple[str, ...], int | None]:
    """A method's companions and parameters; None where it is only parts of a head that builds them as it needs."""
    try:
        with on_meta():
            method = choice.build(layers)
    except UsageError:
        return (), None
    return method.companions, _count(method)


def task_on_backbones(recipe: Recipe, layers: Sequence[LayerSpec], companions: Mapping[str, Companion]) -> Task:
    """The recipe's task on these layers of backbones, with the vocabulary of the published data. Raises UsageError."""
    task = get_task(recipe.task)
    return task_on_layers(
        recipe,
        layers,
        vocabulary=task.published_vocabulary,
        segments=task.published_segments,
        companions=companions,
    )


def _presets(options: type) -> tuple[str, ...]:
    hint = get_type_hints(options).get("preset")
    return get_args(hint) if get_origin(hint) is Literal else ()


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
