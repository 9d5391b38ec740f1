"""Where a head that answers questions looked: at which seconds, and at which places the sound was sought."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mettle_cache.decoders.avqa import AVQADecoder

SECONDS_SEEN, SECONDS_HEARD, PLACES = "looked_seen", "looked_heard", "looked_places"


@contextmanager
def looking(model: nn.Module) -> Iterator[dict[str, NDArray[Any]]]:
    """Take note of where the head looks in the forward pass inside; of nothing for one without questions.

    ``looked_seen`` and ``looked_heard`` are shares of T seconds ``[1, T]``, ``looked_places`` of N places
    ``[1, T, N]``.
    """
    found: dict[str, NDArray[Any]] = {}
    decoder = next((module for module in model.modules() if isinstance(module, AVQADecoder)), None)
    if decoder is None:
        yield found
        return

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, AVQADecoder)
        with torch.no_grad():
            looked = module.look(*given[:3])
        shares = zip((SECONDS_SEEN, SECONDS_HEARD, PLACES), looked, strict=True)
        found.update({name: np.asarray(share.float().cpu()) for name, share in shares})

    handle = decoder.register_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()
