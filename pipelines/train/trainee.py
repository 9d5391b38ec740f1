"""One head in training: its model, optimiser, schedule and random numbers, independent of every other head.

Several of them can take the same batches from one pass over a store, each with the numbers it would get alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from mettle_cache.errors import RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.train.checkpoint import (
    flatten_optimizer,
    load_model,
    restore_optimizer,
    under_prefix,
    with_prefix,
)
from mettle_cache.pipelines.train.recipe import TrainOptions
from mettle_cache.pipelines.train.sample_loader import FeedBatch
from mettle_cache.tasks.protocol import Predictions, Task, auxiliary_terms

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


class Trainee:
    """A head under training. Steps are numbered within their epoch, epochs from 0."""

    def __init__(self, task: Task, options: TrainOptions, *, seed: int, device: torch.device) -> None:
        self.task = task
        self.options = options
        self.seed = seed
        self.device = device
        with seeded(seed, device=torch.device("cpu")):
            model = task.build_model()
        self.model = model.to(device)
        # fused: one pass over weights and state instead of a dozen
        self.optimizer = Adam(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.scheduler = StepLR(self.optimizer, options.step_size, options.gamma)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def step(self, batch: FeedBatch, *, epoch: int, index: int) -> dict[str, float]:
        """One optimiser step; the loss terms.

        Dropout's random numbers follow from seed, epoch and step alone: not from other heads, readers or a resume.

        Raises
        ------
        RunError
            The loss is not finite.
        """
        self.model.train()
        targets = self.task.targets(batch.rows).to(self.device)
        with seeded(self.seed, epoch + 1, index, device=self.device):
            with self._precision():
                outputs = self._forward(batch)
            terms = {**self.task.loss(self.model, outputs, targets), **auxiliary_terms(outputs)}
            stacked = torch.stack(list(terms.values()))
        stacked.sum().backward()
        # one transfer, and only once the backward pass is queued: a GPU must not wait for it
        values = dict(zip(terms, stacked.tolist(), strict=True))
        if not np.isfinite(list(values.values())).all():
            raise RunError(
                f"epoch {epoch + 1}, step {index + 1}: the loss is not finite ({_listed(values)})",
                hint="lower train.learning_rate, or check the tokens with: mettle verify STORE --deep",
            )
        self.optimizer.step()
        # now and not before the next step: heads that share a pass would all hold theirs meanwhile
        self.optimizer.zero_grad(set_to_none=True)
        return values

    def end_epoch(self) -> None:
        """Move the schedule on by one epoch."""
        self.scheduler.step()

    @property
    def learning_rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    @torch.no_grad()
    def predict(self, batch: FeedBatch) -> Predictions:
        """Predictions for a batch, with dropout off."""
        self.model.eval()
        with self._precision():
            outputs = self._forward(batch)
        return self.task.predict(outputs, batch.rows)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimiser state by name."""
        slots, _ = flatten_optimizer(self.optimizer)
        return with_prefix("model", self.model.state_dict()) | with_prefix("optimizer", slots)

    def state(self) -> dict[str, Any]:
        """What else it takes to go on, as JSON."""
        return {"optimizer": flatten_optimizer(self.optimizer)[1], "scheduler": self.scheduler.state_dict()}

    def load_weights(self, tensors: Mapping[str, Tensor], *, where: Path) -> None:
        """Take the weights of a finished model, strictly; raises RunError where they are another model's."""
        load_model(self.model, tensors, where=where)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, where: Path) -> None:
        """Go back to where :meth:`tensors` and :meth:`state` were taken."""
        self.load_weights(under_prefix("model", tensors), where=where)
        restore_optimizer(self.optimizer, under_prefix("optimizer", tensors), state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])

    def _forward(self, batch: FeedBatch) -> dict[str, Tensor]:
        given = {name: tensor.to(self.device) for name, tensor in batch.inputs.tensors.items()}
        outputs: dict[str, Tensor] = self.model(batch.tokens.layers, **given)
        return outputs

    def _precision(self) -> torch.autocast:
        wanted = self.options.precision
        half = wanted == "bfloat16" or (
            wanted == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)


def union_of_layers(store: TokenStore, trainees: Sequence[Trainee]) -> list[LayerSpec]:
    """The layers of a store that any of the heads reads."""
    wanted = {layer.name for trainee in trainees for layer in trainee.task.layers}
    return [layer for layer in store.layers if layer.name in wanted]


@contextmanager
def seeded(*numbers: int, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from ``numbers`` inside the block; the generators outside are left as they were."""
    # SeedSequence drops trailing zeros, so (1, 0) and (1,) would collide without the length
    entropy = np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(entropy))
        yield


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
