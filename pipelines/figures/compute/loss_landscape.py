"""The losses of a landscape: a trained head's weights, moved along two filter-normalised directions.

Source: Li et al., "Visualizing the Loss Landscape of Neural Nets" (2018), section 4. A direction is Gaussian; each of
its filters (a row of a weight, a meta-token) is scaled to the norm of the head's own. Vectors (biases, norms) stay, as
theirs do. Dropout is off, and running statistics stay as trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mettle_cache.errors import UsageError
from mettle_cache.options import Count, Options
from mettle_cache.pipelines.figures.loss_landscape import LossLandscape
from mettle_cache.pipelines.figures.trained import TrainedRun
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.sample_loader import SampleBatch, training_inputs
from mettle_cache.tokens import TokenBatch


@dataclass(frozen=True, kw_only=True)
class LandscapeOptions(Options):
    """``grid`` is S, the points along each direction; ``radius`` the largest step, in filter norms.

    ``clips`` bounds the train samples whose mean loss is taken, and ``max_bytes`` their tokens, which stay in memory.
    Landscapes are comparable where all of these and the task are the same.
    """

    grid: Annotated[int, Field(ge=3, le=201)] = 21
    radius: Annotated[float, Field(gt=0, le=100)] = 1.0
    clips: Count = 32
    max_bytes: Annotated[int, Field(ge=1, lt=1 << 63)] = 2 << 30
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def problems(self) -> Sequence[str]:
        return () if self.grid % 2 else ("grid must be odd, so that the trained weights are one of its points",)

    @property
    def steps(self) -> NDArray[np.float64]:
        """``[S]``; the middle is 0 exactly."""
        half = self.grid // 2
        return np.arange(-half, half + 1) / half * self.radius


def run_landscape(trained: TrainedRun, options: LandscapeOptions, progress: Progress) -> LossLandscape:
    """The landscape of a run's best weights over a few batches of its train split, which are read once."""
    batches = _read_batches(trained, options)
    counts = np.array([len(batch.rows) for batch in batches])

    def loss() -> float:
        return float(np.average([trained.run.loss(batch) for batch in batches], weights=counts))

    progress.start(options.grid**2, "losses", f"landscape {trained.label}")
    losses = scan_losses(loss, dict(trained.run.model.named_parameters()), options, progress.advance)
    progress.finish()
    return LossLandscape(label=trained.label, steps=options.steps, losses=losses)


@torch.no_grad()
def scan_losses(
    loss: Callable[[], float],
    parameters: Mapping[str, Tensor],
    options: LandscapeOptions,
    advance: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """``loss()`` at every point of the plane, ``[S, S]``; the parameters are moved meanwhile, and then as before.

    Losses that are not finite are NaN.
    """
    generator = torch.Generator().manual_seed(options.seed)
    first, second = (filter_normalised_direction(parameters, generator) for _ in range(2))
    trained = {name: parameters[name].clone() for name in first}
    losses = np.empty((options.grid, options.grid))
    try:
        for row, along_first in enumerate(options.steps):
            for column, along_second in enumerate(options.steps):
                for name, centre in trained.items():
                    moved = parameters[name].copy_(centre)
                    moved.add_(first[name], alpha=along_first).add_(second[name], alpha=along_second)
                losses[row, column] = loss()
                advance()
    finally:
        for name, centre in trained.items():
            parameters[name].copy_(centre)
    return np.where(np.isfinite(losses), losses, np.nan)


def filter_normalised_direction(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction for every parameter of two axes or more, each row scaled to the norm of the parameter's."""
    direction = {}
    for name, parameter in parameters.items():
        if parameter.ndim < 2:
            continue
        # drawn on the CPU and in one type: the same numbers on every device
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        rows, own = drawn.flatten(1), parameter.detach().flatten(1)
        scale = own.norm(dim=1) / rows.norm(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
        direction[name] = (rows * scale.unsqueeze(1)).view_as(parameter)
    return direction


def _read_batches(trained: TrainedRun, options: LandscapeOptions) -> list[SampleBatch]:
    """Batches of train samples that lie evenly over the split, in memory of their own."""
    split = trained.split("train")
    if not split.rows:
        raise UsageError(f"{trained.label}: no train sample has tokens, and the landscape is of the training loss")
    places = np.unique(np.linspace(0, len(split) - 1, min(options.clips, len(split))).astype(int))
    rows = [split.rows[place] for place in places]
    train = trained.recipe.train
    inputs = training_inputs(trained.run.task, split.rows, order_seed=train.order_seed, epoch=0)
    batches: list[SampleBatch] = []
    for batch in trained.loader.batches(rows, train.batch_size, inputs):
        if batches and sum(kept.tokens.nbytes for kept in batches) + batch.tokens.nbytes > options.max_bytes:
            break
        # the loader reuses a batch's memory
        tokens = {name: layer.map(Tensor.clone) for name, layer in batch.tokens.layers.items()}
        batches.append(SampleBatch(batch.rows, TokenBatch(tokens, batch.tokens.clips), batch.inputs))
    return batches
