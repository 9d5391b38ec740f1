"""The task heads by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mettle_cache.decoders.avqa import AVQADecoder
from mettle_cache.decoders.cmbs import PSPCMBS
from mettle_cache.decoders.han import HAN
from mettle_cache.decoders.mgn import MGN
from mettle_cache.decoders.mmpyr import MMPyramid
from mettle_cache.decoders.psp import PSP29
from mettle_cache.errors import UsageError

_DECODERS: dict[str, Callable[..., nn.Module]] = {
    "psp_cmbs": PSPCMBS,
    "psp29": PSP29,
    "avqa": AVQADecoder,
    "mmpyr": MMPyramid,
    "han": HAN,
    "mgn": MGN,
}


def create_decoder(name: str, /, *args: object, **options: object) -> nn.Module:
    """Build the head called ``name``; the arguments are its class's.

    Raises
    ------
    UsageError
        No head has that name.
    """
    if name not in _DECODERS:
        raise UsageError(f"no decoder is called '{name}'", hint=f"use one of {', '.join(_DECODERS)}")
    return _DECODERS[name](*args, **options)
