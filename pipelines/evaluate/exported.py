"""An exported head on disk: one safetensors file that describes itself.

It holds the folded LCDs and the rest of the head as it was. :func:`load_exported` gives the whole head back, from the
tokens to the decoder's outputs; :func:`mettle_cache.methods.folded.load_folded` the LCDs alone. Neither needs a store,
and the tokens may come in any codec, or as floats from the backbones themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from torch import nn

from mettle_cache.errors import MettleError, RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.folded import FORMAT, FoldedLCD, load_folded, read_folded
from mettle_cache.pipelines.train.checkpoint import load_model, write_tensors
from mettle_cache.pipelines.train.recipe import Recipe, recipe_from_json
from mettle_cache.tasks.protocol import Task
from mettle_cache.tasks.registry import get_task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def folded_modules(model: nn.Module) -> dict[str, FoldedLCD]:
    """The folded LCDs of a head by their place in it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FoldedLCD)}


def write_exported(path: Path, model: nn.Module, description: Mapping[str, object]) -> None:
    """Write a folded head with its description, whole or not at all.

    Raises
    ------
    StoreError
        The disk refuses; NoRoomError when it is full.
    """
    folded = {name: module.to_json() for name, module in folded_modules(model).items()}
    write_tensors(path, model.state_dict(), FORMAT, {"folded": folded, **description})


def load_exported(path: Path) -> nn.Module:
    """The whole exported head: from ``{layer name: LayerTokens [B, T, N, D]}`` to the decoder's outputs by name.

    For example::

        head = load_exported(Path("runs/ave-swin-htsat-0/folded.safetensors"))
        outputs = head(store.read([0]).layers)

    Raises
    ------
    RunError
        The file is missing, damaged, or something else.
    """
    folded = load_folded(path)
    tensors, table = read_folded(path)
    try:
        model = _unbound_task(table).build_model()
        for name, module in folded.items():
            model.set_submodule(name, module)
    except (KeyError, TypeError, ValueError, AttributeError, MettleError) as error:
        raise RunError(f"{path}: its description of the head is damaged ({error})") from error
    load_model(model, tensors, where=path)
    return model.requires_grad_(False).eval()


def _unbound_task(table: Mapping[str, Any]) -> Task:
    """The task of an exported head, without samples."""
    recipe = recipe_from_json(table["recipe"], where="the exported head")
    kind = get_task(recipe.task)
    return kind(
        TypeAdapter(tuple[LayerSpec, ...]).validate_python(table["layers"]),
        samples=kind.sample_schema.empty_table(),
        vocabulary=TypeAdapter(dict[str, list[str]]).validate_python(table["vocabulary"]),
        segments=TypeAdapter(int).validate_python(table["segments"]),
        method=recipe.method_choice(),
        options=recipe.head,
    )


def describe_head(task: Task, recipe: Recipe, store: TokenStore) -> dict[str, object]:
    """What it takes to build the head again, the folded LCDs and the tensors aside."""
    return {
        "layers": [asdict(layer) for layer in task.layers],
        "recipe": recipe.to_json(),
        "vocabulary": {name: list(values) for name, values in store.vocabulary.items()},
        "segments": store.segments,
    }
