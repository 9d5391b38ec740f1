"""One head in training: its model, optimiser, schedule and random numbers, and its folder where it has one.

A run is independent of every other. Several can take the same batches from one pass over a store, each with the numbers
that it would get alone: its random numbers follow from its seed, the epoch and the step, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from mettle_cache.devices import seeded
from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    load_model,
    restore_optimizer,
    under_prefix,
    with_prefix,
)
from mettle_cache.pipelines.train.epoch_pictures import EpochPictures
from mettle_cache.pipelines.train.history import EpochRow, History
from mettle_cache.pipelines.train.loggers.protocol import Status
from mettle_cache.pipelines.train.loggers.run_loggers import RunLoggers
from mettle_cache.pipelines.train.recipe import TrainOptions
from mettle_cache.pipelines.train.recorder import Recorder
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import SampleBatch, Split
from mettle_cache.pipelines.train.step_graph import Capture, GraphedStep, StepTensors, capture_on_cuda
from mettle_cache.pipelines.train.step_terms import StepTerms
from mettle_cache.store.reading.device_copy import to_device
from mettle_cache.tasks.protocol import Predictions, Task, auxiliary_terms


class Run:
    """A head under training. Steps are numbered within their epoch, epochs from 0.

    Without a folder it trains, predicts and keeps its history. :meth:`record` gives it a folder to resume from and to
    write to; :meth:`load_best` loads the best weights of a folder.

    ``label`` stands before its lines of progress. ``failure`` is what ended it early, if anything did. ``note`` is told
    what a user has to know of its steps, which ``capture`` makes a graph of where a batch is static.
    """

    def __init__(
        self,
        task: Task,
        options: TrainOptions,
        *,
        seed: int,
        device: torch.device,
        label: str = "",
        note: Callable[[str], None] = lambda _: None,
        capture: Capture = capture_on_cuda,
    ) -> None:
        self.task = task
        self.options = options
        self.seed = seed
        self.device = device
        self.label = label
        self.history = History()
        self.failure: RunError | None = None
        with seeded(mix_seeds(seed)):
            model = task.build_model()
        self.model = model.to(device)
        rate, decay = options.learning_rate, options.weight_decay
        # fused: one pass over weights and state instead of a dozen; capturable: its count of steps is on the device
        settings: dict[str, Any] = {"fused": True, "capturable": device.type == "cuda"}
        self.optimizer = Adam(self.model.parameters(), lr=rate, weight_decay=decay, **settings)
        self.scheduler = StepLR(self.optimizer, options.step_size, options.gamma)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._recorder: Recorder | None = None
        self._steps = GraphedStep(self, capture, note)
        self._names: tuple[str, ...] = ()
        self._unread: StepTerms | None = None
        self._loss_sums: dict[str, float] = {}
        self._samples = 0

    @property
    def epochs_left(self) -> range:
        """Epochs that are still to be trained, counted from 0."""
        return range(self.history.epochs, self.options.epochs)

    @property
    def learning_rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def step(self, batch: SampleBatch, *, epoch: int, index: int) -> StepTerms:
        """One optimiser step; its loss terms, which are read and checked within the next one or by :meth:`settle`.

        Nothing here waits for the device. Dropout's random numbers follow from seed, epoch and step alone: not from
        other heads, readers or a resume.

        Raises
        ------
        RunError
            The loss of the step before is not finite.
        """
        self.model.train()
        targets = to_device(self.task.targets(batch.rows), self.device)
        tensors = StepTensors(batch.tokens.layers, self._inputs(batch), targets)
        with seeded(mix_seeds(self.seed, epoch + 1, index), self.device):
            stacked = self._steps(tensors, static=batch.static, rate=self.learning_rate)
        earlier, place = self._unread, {"samples": len(batch.rows), "epoch": epoch, "index": index}
        self._unread = StepTerms(self._names, stacked, **place)
        self._read(earlier)
        return self._unread

    def settle(self) -> None:
        """Read what the last step has left, and make sure that the weights are still finite.

        Raises
        ------
        RunError
            The step's loss or a weight is not.
        """
        earlier, self._unread = self._unread, None
        self._read(earlier)
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self.model.parameters()]).all()
        if not finite:
            raise RunError(
                f"epoch {self.history.epochs + 1}: weights are not finite any more", hint="lower train.learning_rate"
            )

    def predict(self, batch: SampleBatch) -> Predictions:
        """Predictions for a batch, with dropout off."""
        return self.task.predict(self.outputs(batch), batch.rows)

    @torch.no_grad()
    def outputs(self, batch: SampleBatch) -> dict[str, Tensor]:
        """The model's outputs for a batch, with dropout off."""
        self.model.eval()
        with self._precision():
            outputs: dict[str, Tensor] = self.model(batch.tokens.layers, **self._inputs(batch))
            return outputs

    @torch.no_grad()
    def loss(self, batch: SampleBatch) -> float:
        """The loss of a batch, all terms together, with dropout off."""
        outputs = self.outputs(batch)
        targets = to_device(self.task.targets(batch.rows), self.device)
        terms = {**self.task.loss(self.model, outputs, targets), **auxiliary_terms(outputs)}
        return float(sum(terms.values()))

    def end_epoch(self, scores: Mapping[str, float], *, split: str = "", speed: float = 0.0) -> str:
        """Add the epoch to the history, move the schedule on, and keep all that in the folder, if there is one.

        ``scores`` are those on ``split``, empty without one; ``speed`` is in clips a second. Gives the epoch's line
        for a human. A kill leaves the folder's state before the epoch's end or after it, never between.

        Raises
        ------
        RunError
            As :meth:`settle`; then nothing is kept.
        """
        self.settle()
        terms = {name: total / self._samples for name, total in self._loss_sums.items()}
        self._loss_sums, self._samples = {}, 0
        loss, metric = sum(terms.values()), self.task.metric
        row: EpochRow = {
            "epoch": self.history.epochs + 1,
            "loss": loss,
            **{f"loss_{name}": value for name, value in terms.items()},
            **{f"{split}_{name}": value for name, value in scores.items()},
            "learning_rate": self.learning_rate,
            "clips_per_second": speed,
        }
        best = self.history.add(row, scores.get(metric))
        self.scheduler.step()
        if self._recorder is not None:
            self._recorder.epoch(self, best=best)
        scored = f", {split} {metric} {scores[metric]:.2f}{' (best)' if best else ''}" if scores else ""
        return f"loss {loss:.4f}{scored}, {speed:.1f} clips/s"

    @contextmanager
    def record(
        self,
        folder: RunFolder,
        *,
        store_digest: str,
        steps: int,
        loggers: RunLoggers | None = None,
        pictures: EpochPictures | None = None,
    ) -> Iterator[Run]:
        """Resume after the last epoch that ``folder`` holds, and write to it what is trained inside the block.

        ``store_digest`` is the key of the store that is trained from, ``steps`` the optimiser steps of one epoch.
        ``loggers`` show how it goes, with ``pictures``.

        Raises
        ------
        RunError
            The folder's checkpoint is damaged or another run's.
        """
        if folder.has(folder.last):
            self._resume(folder)
        self._recorder = Recorder(folder, loggers, pictures, store_digest, steps)
        status: Status = "failed"
        try:
            yield self
            status = "failed" if self.failure else "finished"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            self._recorder.close(self, status)
            self._recorder = None

    def show(self, predictions: Predictions, split: Split) -> None:
        """Show the predictions that score the epoch which ends now."""
        if self._recorder is not None:
            self._recorder.show(self, predictions, split)

    def load_best(self, folder: RunFolder) -> int:
        """Load the weights of a folder's best epoch; gives the number of that epoch, counted from 1.

        Raises
        ------
        RunError
            The run has not finished an epoch, or its checkpoint is damaged or another model's.
        """
        tensors, state = load_checkpoint(folder.check(folder.best))
        load_model(self.model, tensors, where=folder.best)
        return int(state["epoch"])

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimiser state by name."""
        slots, _ = flatten_optimizer(self.optimizer)
        return with_prefix("model", self.model.state_dict()) | with_prefix("optimizer", slots)

    def state(self) -> dict[str, Any]:
        """The rest of the state that resuming needs, as JSON."""
        return {"optimizer": flatten_optimizer(self.optimizer)[1], "scheduler": self.scheduler.state_dict()}

    def _resume(self, folder: RunFolder) -> None:
        tensors, state = load_checkpoint(folder.check(folder.last))
        # it may stay the best: better to hear now that it is damaged than after the last epoch
        folder.check(folder.best)
        try:
            self.history = History(**state["history"])
            load_model(self.model, under_prefix("model", tensors), where=folder.last)
            trained = state["trainee"]
            restore_optimizer(self.optimizer, under_prefix("optimizer", tensors), trained["optimizer"])
            for group in self.optimizer.param_groups:
                # the run may have begun on another device
                group["capturable"] = self.device.type == "cuda"
            self.scheduler.load_state_dict(trained["scheduler"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder.last}: the checkpoint is not one of this run ({error})") from error

    def _read(self, terms: StepTerms | None) -> None:
        """Check a step's loss terms, add them to the epoch's means, and show them."""
        if terms is None:
            return
        terms.check()
        for name, value in terms.items():
            self._loss_sums[name] = self._loss_sums.get(name, 0.0) + value * terms.samples
        self._samples += terms.samples
        if self._recorder is not None:
            self._recorder.step(terms, epoch=terms.epoch, index=terms.index)

    def compute_terms(self, tensors: StepTensors) -> Tensor:
        """The loss terms ``[K]`` of a step; draws dropout's numbers."""
        with self._precision():
            outputs = self.model(tensors.layers, **tensors.inputs)
        terms = {**self.task.loss(self.model, outputs, tensors.targets), **auxiliary_terms(outputs)}
        self._names = tuple(terms)
        return torch.stack(list(terms.values()))

    def compute_step(self, tensors: StepTensors) -> Tensor:
        """As :meth:`compute_terms`, and go back from their sum to new weights."""
        stacked = self.compute_terms(tensors)
        stacked.sum().backward()
        self.optimizer.step()
        # now and not before the next step: heads that share a pass would all hold theirs meanwhile
        self.optimizer.zero_grad(set_to_none=True)
        return stacked

    def _inputs(self, batch: SampleBatch) -> dict[str, Tensor]:
        return {name: to_device(tensor, self.device) for name, tensor in batch.inputs.tensors.items()}

    def _precision(self) -> AbstractContextManager[object]:
        half = self.options.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if half else nullcontext()


def mix_seeds(*numbers: int) -> int:
    """One seed of 64 bits that follows from all of ``numbers`` and their order."""
    # SeedSequence drops trailing zeros, so (1, 0) and (1,) would collide without the length
    return int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0])
