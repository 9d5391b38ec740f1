"""A step that memory has no room for: what would fit instead."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.memory import available_memory
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.head_size import PROBED, ProbedStep, probe_step
from mettle_cache.pipelines.train.residency import SHARE
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.shared_pass import SharedPass

# what PyTorch says where an ordinary allocation fails, which has no class of its own
_REFUSED = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def telling_what_fits(shared: SharedPass, run: Run, where: str) -> Iterator[None]:
    """Make an error that says what would fit of one that says that memory is out; ``where`` is the step's place.

    Raises
    ------
    RunError
        There was no memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # the frames of the step hold its tensors
        traceback.clear_frames(error.__traceback__)
    else:
        return
    raise RunError(
        f"{where}: there is no memory on {run.device} for a batch of {shared.batch_size}", hint=_what_fits(shared, run)
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for and refused."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _REFUSED)


def _what_fits(shared: SharedPass, run: Run) -> str:
    run.optimizer.zero_grad(set_to_none=True)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    free = int(SHARE * available_memory(run.device))
    try:
        probed = probe_step(run, shared.loader, shared.train.rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return (
            f"not even {PROBED} samples fit{_elsewhere(shared)}; {format_bytes(free)} may be taken beside the weights"
        )
    return f"{_smaller_batches(probed, shared.batch_size, free)}{_elsewhere(shared)}"


def _smaller_batches(probed: ProbedStep, batch_size: int, free: int) -> str:
    """The largest batch of half the size, a quarter and so on that is foretold to fit."""
    sizes = [batch_size >> halvings for halvings in range(1, batch_size.bit_length())]
    needed = {size: probed.at(size).step for size in sizes}
    listed = ", ".join(f"{format_bytes(nbytes)} at {size}" for size, nbytes in needed.items())
    fitting = next((size for size, nbytes in needed.items() if nbytes <= free), None)
    asked = f"--set train.batch_size={fitting} is foretold to fit" if fitting else "no batch is foretold to fit"
    step = f"{format_bytes(probed.at(batch_size).step)} at {batch_size}{f', {listed}' if listed else ''}"
    return f"{asked}: a step takes about {step}, of {format_bytes(free)} that may be taken beside the weights"


def _elsewhere(shared: SharedPass) -> str:
    """What tokens that stay on the device that trains would free."""
    if not shared.residence or shared.foretold_bytes == shared.training_bytes:
        return ""
    return f"; --resident disk leaves {format_bytes(shared.residence.nbytes)} more"
