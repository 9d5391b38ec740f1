"""The decoders that a task's recipe chooses from by name. A new one is a module and one row, here or in a package.

A row's object is called with the width of the meta-tokens and the number of categories, and with what the row ``takes``
by keyword of all that the task offers. One that takes ``audio_dim`` is given both widths, the visual one first; all
others want one width for both modalities. It makes a module from both modalities' meta-tokens to named outputs, with a
``loss`` of these outputs and the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from mettle_cache.errors import PluginError
from mettle_cache.registry import DecoderRow, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

DECODERS = Registry(
    "decoder",
    "mettle_cache.decoders",
    DecoderRow,
    (
        DecoderRow("psp_cmbs", "mettle_cache.decoders.cmbs:PSPCMBS", task="avel", takes=("dropout",)),
        DecoderRow("psp29", "mettle_cache.decoders.psp:PSP29", task="avel", takes=("dropout", "avps_weight")),
        DecoderRow(
            "mmpyr", "mettle_cache.decoders.mmpyr:MMPyramid", task="avvp", takes=("options", "motion", "smoothing")
        ),
        DecoderRow("han", "mettle_cache.decoders.han:HAN", task="avvp", takes=("options", "motion", "smoothing")),
        DecoderRow(
            "mgn",
            "mettle_cache.decoders.mgn:MGN",
            task="avvp",
            takes=("options", "segments", "motion", "smoothing", "audio_dim"),
        ),
    ),
)


class Decoder(Protocol):
    """What tasks ask of a decoder beside its outputs."""

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Terms by name; their sum is the loss."""


def decoder_problems(name: str, task: str) -> tuple[str, ...]:
    """What is wrong with a task's choice of a decoder, if anything."""
    fitting = ", ".join(row.name for row in DECODERS if row.task == task)
    if name not in DECODERS:
        return (f"decoder = '{name}': no decoder is called so; use one of {fitting}",)
    decoder_task = DECODERS.row(name).task
    return (
        ()
        if decoder_task == task
        else (f"decoder = '{name}': it is for the task {decoder_task}; use one of {fitting}",)
    )


def create_decoder(name: str, dim: int, categories: int, offered: Mapping[str, object]) -> nn.Module:
    """The decoder called ``name`` on meta-tokens ``dim`` wide, with what it takes of the ``offered`` arguments.

    Raises
    ------
    UsageError
        No decoder has that name, or it refuses its arguments.
    PluginError
        The package that provides it is broken, or it takes what the task does not offer.
    """
    row = DECODERS.row(name)
    missing = [key for key in row.takes if key not in offered]
    if missing:
        raise PluginError(f"the decoder {name} takes {', '.join(missing)}, but {row.task} offers {', '.join(offered)}")
    decoder: nn.Module = row.load()(dim, categories, **{key: offered[key] for key in row.takes})
    return decoder
