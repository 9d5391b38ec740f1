"""The memory of a head and its steps, from one step on two samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.pipelines.memory import counting_saved
from mettle_cache.pipelines.train.foretold import BATCHES, GRADIENTS, HELD
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleBatch, SampleLoader, training_inputs

# two, because a normalisation over a batch wants more than one
PROBED = 2


@dataclass(frozen=True)
class HeadSize:
    """Bytes that a head holds all the time, and those of its step, which are free again for the next head's."""

    held: int
    step: int


@dataclass(frozen=True)
class ProbedStep:
    """A step on ``samples``, among them ``further`` ones that come with every batch, took ``nbytes`` beside weights."""

    parameters: int
    samples: int
    further: int
    nbytes: int

    def at(self, batch_size: int) -> HeadSize:
        """The head with so many samples a step."""
        times = (batch_size + self.further) / self.samples
        return HeadSize(HELD * self.parameters, GRADIENTS * self.parameters + int(times * self.nbytes))


def probe_step(run: Run, loader: SampleLoader, rows: Sequence[int]) -> ProbedStep:
    """Take a step of ``run`` on the first of these samples, to see what it keeps; the run is good for nothing else."""
    if not rows:
        return ProbedStep(run.parameters, 1, 0, 0)
    inputs = training_inputs(run.task, rows, order_seed=run.options.order_seed, epoch=0)
    (batch,) = loader.batches(rows[:PROBED], PROBED, inputs)
    further = len(batch.inputs.rows)
    nbytes = _kept(run, batch) + BATCHES * batch.tokens.nbytes
    return ProbedStep(run.parameters, len(batch.rows) + further, further, nbytes)


def _kept(run: Run, batch: SampleBatch) -> int:
    """Bytes that the forward pass of a step keeps for the backward pass, weights and stored tokens aside."""
    stored = [
        tensor
        for layer in batch.tokens.layers.values()
        for tensor in (layer.codes, *layer.parts.values(), *layer.static.values())
    ]
    with counting_saved([*run.model.parameters(), *run.model.buffers(), *stored]) as saved:
        run.step(batch, epoch=0, index=0)
    return saved.nbytes
