"""A trained head with all that turns new media into its tokens: from a run's folder, or from an exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mettle_cache.errors import RunError, StoreMissingError, UsageError
from mettle_cache.layers import select_layers
from mettle_cache.methods.folded import read_folded
from mettle_cache.paths import command_line
from mettle_cache.pipelines.evaluate.export import load_exported
from mettle_cache.pipelines.train.kept_arrays import kept_static, static_of_tensors
from mettle_cache.pipelines.train.kept_companions import COMPANIONS, companions_of_tensors, kept_companions
from mettle_cache.pipelines.train.recipe import Recipe, recipe_from_json
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.pipelines.train.task import task_on_layers
from mettle_cache.pipelines.train.token_origin import TOKENS, TokenOrigin, kept_origin
from mettle_cache.store.format.codecs import StaticArrays
from mettle_cache.tasks.protocol import StepInputs, Task
from mettle_cache.tokens import LayerTokens, TokenBatch

if TYPE_CHECKING:
    import pyarrow as pa

    from mettle_cache.companions import Companion
    from mettle_cache.store.reading.token_store import TokenStore

Outputs = dict[str, Tensor]
Forward = Callable[[Mapping[str, LayerTokens], Mapping[str, Tensor]], Outputs]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedHead:
    """A head that answers.

    ``forward`` takes tokens ``[1, T, N, D]`` by layer name and the task's further inputs, and gives the model's
    outputs. ``static`` are the codec's static arrays of the layers that the head reads.
    """

    path: Path
    recipe: Recipe
    origin: TokenOrigin
    static: StaticArrays
    companions: Mapping[str, Companion]
    task: Task
    model: torch.nn.Module
    forward: Forward

    def task_on(self, samples: pa.Table) -> Task:
        """The head's task on samples of its own, such as questions. Raises as the task does."""
        return _task(self.recipe, self.origin, self.companions, samples)


def load_head(path: Path, *, store: Path | None, device: torch.device) -> TrainedHead:
    """The best epoch of the run at ``path``, or the exported head that is this file.

    ``store`` is the run's store, which only runs of earlier versions need.

    Raises
    ------
    RunError
        There is no such run or file, it is damaged, or an earlier version wrote it and kept too little.
    StoreMissingError
        A run of an earlier version, whose store is not at hand.
    UsageError
        The head reads what media do not hold.
    """
    return _load_exported(path, device) if path.is_file() else _load_run(path, store, device)


def _load_run(path: Path, store: Path | None, device: torch.device) -> TrainedHead:
    folder = RunFolder(path)
    config = folder.read_config()
    origin, static = kept_origin(folder), kept_static(folder)
    companions: dict[str, Companion] = dict(kept_companions(folder))
    if origin is None or store is not None:
        opened = _open_store(config, path, store)
        origin, static = TokenOrigin.of(opened), static or opened.static
        companions = {**opened.companions, **companions}
    recipe = config.load_recipe()
    task = _task(recipe, origin, companions)
    run = Run(task, recipe.train, seed=config.seed, device=device)
    run.load_best(folder)

    def forward(tokens: Mapping[str, LayerTokens], inputs: Mapping[str, Tensor]) -> Outputs:
        return run.outputs(SampleBatch([0], TokenBatch(tokens, (0,)), StepInputs(tensors=inputs)))

    return TrainedHead(
        path=path,
        recipe=recipe,
        origin=origin,
        static=static,
        companions=companions,
        task=task,
        model=run.model,
        forward=forward,
    )


def _open_store(config: RunConfig, path: Path, store: Path | None) -> TokenStore:
    try:
        return config.store.open(path, instead=store)
    except StoreMissingError as error:
        raise StoreMissingError(
            f"{error.message}, and an earlier version trained this run, which kept nothing of how its tokens were made",
            hint=f"{error.hint}; or go on training it once where the store is, which keeps it: "
            f"{command_line('mettle train --resume --out', path)}",
        ) from error


def _load_exported(path: Path, device: torch.device) -> TrainedHead:
    tensors, table = read_folded(path)
    if TOKENS not in table:
        raise RunError(
            f"{path}: an earlier version exported this head, without how its tokens come from media",
            hint="export it again: mettle export RUN",
        )
    try:
        origin = TokenOrigin.from_json(table[TOKENS])
    except ValueError as error:
        raise RunError(f"{path}: its description of the tokens is damaged ({str(error).splitlines()[0]})") from error
    companions: dict[str, Companion] = dict(companions_of_tensors(table.get(COMPANIONS, {}), tensors))
    recipe = recipe_from_json(table["recipe"], where="the exported head")
    model = load_exported(path).to(device)

    @torch.no_grad()
    def forward(tokens: Mapping[str, LayerTokens], inputs: Mapping[str, Tensor]) -> Outputs:
        outputs: Outputs = model(tokens, **{name: tensor.to(device) for name, tensor in inputs.items()})
        return outputs

    return TrainedHead(
        path=path,
        recipe=recipe,
        origin=origin,
        static=static_of_tensors(tensors),
        companions=companions,
        task=_task(recipe, origin, companions),
        model=model,
        forward=forward,
    )


def _task(
    recipe: Recipe, origin: TokenOrigin, companions: Mapping[str, Companion], samples: pa.Table | None = None
) -> Task:
    task = task_on_layers(
        recipe,
        select_layers(origin.layers, recipe.layers),
        vocabulary=origin.vocabulary,
        segments=origin.segments,
        companions=companions,
        samples=samples,
    )
    if wanted := task.beside_media():
        raise UsageError(
            f"this head reads {wanted} beside pictures and sound, and no video holds that",
            hint="predict with a head that was trained without",
        )
    return task
