"""Several heads that share a pass over a store, timed in a process of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mettle_cache.devices import prepare_process
from mettle_cache.pipelines.benchmark.child_process import available_memory, call_in_child, serve
from mettle_cache.pipelines.benchmark.heads import bench_recipe, store_run, training_batches
from mettle_cache.pipelines.benchmark.step_child import now
from mettle_cache.store.reading.token_store import TokenStore

MODULE = "mettle_cache.pipelines.benchmark.heads_child"
# weights and two Adam moments stay; the gradients are there once, whatever the number of heads
_KEPT_A_PARAMETER = 3 * 4
_SPARE = 0.25


@dataclass(frozen=True, kw_only=True)
class HeadsRequest:
    """``counts`` are the numbers of heads to time, in turns, ``repeats`` times each, after ``untimed`` steps of all."""

    store: str
    batch: int
    counts: tuple[int, ...]
    repeats: int
    device: str
    tiny: bool
    untimed: int = 1


def measure_heads(request: HeadsRequest) -> dict[int, list[float]]:
    """Seconds of a batch by the number of heads that take it; counts that memory cannot hold are missing.

    Raises RunError where the process dies.
    """
    answer = call_in_child(MODULE, asdict(request))
    return {int(count): seconds for count, seconds in answer["seconds"].items()}


def _work(request: dict[str, Any]) -> dict[str, object]:
    prepare_process()
    wanted = HeadsRequest(**request)
    device = torch.device(wanted.device)
    recipe = bench_recipe(tiny=wanted.tiny)
    with TokenStore.open(Path(wanted.store)) as store:
        runs = [store_run(store, recipe, seed=0, device=device)]
        counts = _fitting(wanted.counts, _KEPT_A_PARAMETER * runs[0].parameters, available_memory(device))
        runs += [store_run(store, recipe, seed=seed, device=device) for seed in range(1, max(counts))]
        steps = wanted.untimed + wanted.repeats * len(counts)
        batches = training_batches(store, runs[0].task.layers, wanted.batch, steps, device)
        for index, batch in enumerate(islice(batches, wanted.untimed)):
            for run in runs:
                run.step(batch, epoch=0, index=index)
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for index in range(wanted.repeats):
            for count in counts:
                started = now(device)
                batch = next(batches)
                for run in runs[:count]:
                    run.step(batch, epoch=1, index=index)
                seconds[count].append(now(device) - started)
    return {"seconds": seconds}


def _fitting(counts: Sequence[int], nbytes: int, available: int) -> list[int]:
    """The numbers of heads of ``nbytes`` each that leave some memory for their batches; one head at least."""
    return [count for count in counts if count == 1 or count * nbytes <= (1 - _SPARE) * available]


if __name__ == "__main__":
    serve(_work)
