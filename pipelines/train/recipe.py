"""Recipes: everything about a training run that changes its numbers, other than the store and the seed.

They are read from TOML: the built-in ones by name, a user's by path, single keys from the command line.

Whatever is wrong with a recipe is reported in one message. Unknown keys are refused, with the nearest known one.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.methods.registry import METHODS, MethodChoice, method_kind
from mettle_cache.options import STRICT, Count, Options, Weight, read_options
from mettle_cache.pipelines.report.store_facts import find_published, store_facts
from mettle_cache.pipelines.train.recipe_file import read_recipe
from mettle_cache.pipelines.train.toml_text import parse_toml
from mettle_cache.tasks.registry import TASKS, get_task

if TYPE_CHECKING:
    from mettle_cache.companions import Companion
    from mettle_cache.store.reading.token_source import TokenSource

_BARE_WORD = re.compile(r"[A-Za-z0-9_.:,/+-]+")
# what an override may hold: parsing takes time that grows with the square of a key's parts
_MAX_OVERRIDE = 4096
_MAX_DEPTH = 8
# a recipe's name becomes part of a folder's
_MAX_NAME = 100
_MAX_PROBLEMS = 20
_MAX_SHOWN = 80
DEFAULT_METHOD = "lcd"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Optimiser, schedule and order (Table 13).

    ``batch_size`` counts samples. Adam at ``learning_rate``, times ``gamma`` every ``step_size`` epochs.
    ``precision`` is that of the method's products: ``auto`` is float32, since bfloat16 autocast moves the gradients of
    every method that it touches by 2 to 9 % (docs/gpu.md, "The step").
    ``order_seed`` alone decides the order of samples, apart from the run's seed, so that heads of different seeds can
    share one pass over a store and still get the numbers that each would get alone.
    """

    batch_size: Count = 16
    epochs: Count = 10
    learning_rate: Annotated[float, Field(gt=0, le=1e30)] = 4e-4
    weight_decay: Weight = 0.0
    step_size: Count = 3
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.35
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    order_seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """The part of a recipe whose form no task and no method decides."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    task: str
    method: str = DEFAULT_METHOD
    layers: str = "all"
    train: TrainOptions = field(default_factory=TrainOptions)


@dataclass(frozen=True, kw_only=True)
class Recipe(_Plain):
    """A resolved recipe. ``layers`` is a selection from the store's (``mettle_cache.layers.select_layers``).

    ``head`` is of the type that the task declares, ``method_options`` of the one that the method does: a file holds
    them in the tables ``[head]`` and, for the method lcd, ``[lcd]``.
    """

    head: Any
    method_options: Options

    def method_choice(self, companions: Mapping[str, Companion] | None = None) -> MethodChoice:
        """The method with its options, and the companions that there are."""
        return MethodChoice(self.method, self.method_options, companions or {})

    def to_json(self) -> dict[str, object]:
        """Nested plain values, as a file holds them; :func:`recipe_from_json` is the inverse."""
        order = ("name", "task", "head", "method", "layers", "method_options", "train")
        values = asdict(self)
        table = {self.method if key == "method_options" else key: values[key] for key in order}
        # through JSON, so that a tuple is the list that it will be when it is read back
        plain: dict[str, object] = json.loads(json.dumps(table))
        return plain


_PLAIN_KEYS = tuple(item.name for item in fields(_Plain))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``overrides``, each ``key=value`` or ``table.key=value`` with a TOML value.

    It is a built-in one's name, a file, or ``package:file.toml`` for one that a package brings.

    A value that is no TOML but one word counts as a string, words between brackets as a list of strings:
    ``layers=stages``, ``layers=[visual/s1b01,audio/s1b01]``.

    Raises
    ------
    UsageError
        There is no such recipe.
    ConfigError
        Everything that is wrong with the file and the overrides.
    """
    name, text = read_recipe(name_or_path)
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise ConfigError([f"this is not TOML: {error}"], where=f"recipe {name_or_path}") from error
    problems: list[str] = []
    for override in overrides:
        problems += _apply(table, override)
    return _validate({"name": name, **table}, where=f"recipe {name_or_path}", problems=problems)


def default_recipe(store: TokenSource) -> str:
    """The recipe to use where none is named.

    That of the published row that the store is for, else the one that its data set names, else its task's.

    Raises
    ------
    UsageError
        No task is for the store's data set.
    """
    row = DATASETS.row(store.dataset) if store.dataset in DATASETS else None
    if row is None or row.task is None:
        with_task = ", ".join(row.name for row in DATASETS if row.task)
        raise UsageError(
            f"no task is for the data set '{store.dataset}', so there is no default recipe",
            hint=f"name one with --recipe; data sets with a task: {with_task}",
        )
    published = find_published(get_task(row.task).published, store_facts(store))
    recipe = published.setting if published else row.recipe or TASKS.row(row.task).recipe
    if not recipe:
        raise UsageError(f"the task {row.task} names no default recipe", hint="name one with --recipe")
    return recipe


def recipe_from_json(table: Mapping[str, object], *, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """The inverse of :meth:`Recipe.to_json`; ``overrides`` are those of :func:`load_recipe`. Raises ConfigError."""
    changed = copy.deepcopy(dict(table))
    problems = [problem for override in overrides for problem in _apply(changed, override)]
    return _validate(changed, where=where, problems=problems)


def recipe_differences(ours: Recipe, other: Recipe) -> list[str]:
    """Keys whose values differ, names aside, each as ``key = ours instead of other's``.

    Of different methods only the names are compared: their options have nothing in common.
    """
    mine, theirs = ours.to_json(), other.to_json()
    if ours.method != other.method:
        mine.pop(ours.method)
        theirs.pop(other.method)
    mine, theirs = flatten_recipe(mine), flatten_recipe(theirs)
    keys = [key for key in {**mine, **theirs} if key != "name"]
    return [f"{key} = {mine.get(key)} instead of {theirs.get(key)}" for key in keys if mine.get(key) != theirs.get(key)]


def resolve_recipe(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe in plain values as this version writes it: an older version's may hold keys that went, or lack new ones.

    What is no recipe stays as it is.
    """
    try:
        return recipe_from_json(table, where="").to_json()
    except ConfigError:
        return table


def flatten_recipe(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe in plain values as one table, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten_recipe(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text):,} characters)"


def _apply(table: dict[str, Any], override: str) -> list[str]:
    """Set one key in place; what is wrong with the override, if anything."""
    shown = f"--set {_shorten(override)}"
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path) or len(override) > _MAX_OVERRIDE or len(path) > _MAX_DEPTH:
        return [
            f"{shown}: must be key=value, for example lcd.k_visual=2"
            + (f", of up to {_MAX_OVERRIDE:,} characters and {_MAX_DEPTH} parts" if equals else "")
        ]
    text = text.strip()
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        words = text.removeprefix("[").removesuffix("]").strip()
        bracketed = text == f"[{text[1:-1]}]" and len(text) > 2
        if not _BARE_WORD.fullmatch(words.replace(" ", "") if bracketed else text):
            return [f"{shown}: '{_shorten(text)}' is not a TOML value ({error})"]
        parsed = {"value": [word.strip() for word in words.split(",")] if bracketed else text}
    if set(parsed) != {"value"}:
        return [f"{shown}: must set one value"]
    target = table
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            return [f"{shown}: '{_shorten(part)}' is a value, not a table"]
    target[path[-1]] = parsed["value"]
    return []


def _validate(table: dict[str, Any], *, where: str, problems: list[str]) -> Recipe:
    layers = table.get("layers")
    if isinstance(layers, list) and layers and all(isinstance(layer, str) for layer in layers):
        table["layers"] = ",".join(layers)
    head, wrong = _read_head(table.get("task"), table.pop("head", {}))
    problems = [*problems, *wrong]
    # those of other methods too, so that a mistake shows before the method is switched; they are left out then
    methods = {}
    for name in [key for key in table if key in METHODS and key not in _PLAIN_KEYS]:
        methods[name], wrong = read_options(method_kind(name).options_type, table.pop(name), f"{name}.")
        problems += wrong
    plain, wrong = read_options(_Plain, {key: table.pop(key) for key in _PLAIN_KEYS if key in table}, "")
    problems += [*wrong, *_unknown_keys(table)]
    if plain:
        problems += [*_name_problems(plain.name), *_method_problems(plain)]
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        problems = [*problems[:_MAX_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])]
        raise ConfigError(problems, where=where, hint="correct these keys; pipelines/recipes holds complete examples")
    options = methods.get(plain.method) or method_kind(plain.method).options_type()
    return Recipe(**vars(plain), head=head, method_options=options)


def _read_head(task: object, table: object) -> tuple[Any, list[str]]:
    """The task's own options, and what is wrong with them or with the task."""
    known = ", ".join(TASKS.names())
    if task is None:
        return None, [f"task: missing ({known})"]
    if not isinstance(task, str):
        return None, [f"task: must be one of {known}"]
    if task not in TASKS:
        return None, [f"task = {_shorten(task)!r}: must be one of {known}"]
    return read_options(get_task(task).options_type, table, "head.")


def _name_problems(name: str) -> list[str]:
    """What keeps a name from being part of a folder's name under ``runs/``."""
    printable = name.isprintable() and name == name.strip() != ""
    if printable and not name.startswith(".") and not set(name) & set("/\\") and len(name.encode()) <= _MAX_NAME:
        return []
    return [
        f"name = {_shorten(name)!r}: a run's folder is called so: up to {_MAX_NAME} printable characters without / "
        "and \\, the first one no dot"
    ]


def _method_problems(plain: _Plain) -> list[str]:
    """What is wrong with the choice of the method."""
    installed = ", ".join(METHODS.names())
    if plain.method not in METHODS:
        return [f"method = {_shorten(plain.method)!r}: no method is called so (installed: {installed})"]
    accepted = get_task(plain.task).methods if plain.task in TASKS else None
    if accepted is None or plain.method in accepted:
        return []
    return [
        f"method = {plain.method!r}: the task {plain.task} takes {' or '.join(accepted)} only (installed: {installed})"
    ]


def _unknown_keys(table: Mapping[str, object]) -> list[str]:
    known = ["name", "task", "head", "method", *METHODS.names(), "layers", "train"]
    problems = []
    for key in table:
        near = difflib.get_close_matches(key, known, n=1)
        guess = f"did you mean {near[0]}?" if near else f"(known: {', '.join(known)})"
        problems.append(f"{_shorten(key)}: no such key{'; ' if near else ' '}{guess}")
    return problems
