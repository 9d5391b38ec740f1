"""How the video parsing heads are configured. Ranges are checked where a recipe is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from mettle_cache.options import Count, Options

Share = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class MMPyrOptions(Options):
    """The sizes of :class:`mettle_cache.decoders.mmpyr.MMPyramid`; its width is that of the meta-tokens."""

    ffn: Count = 1024
    levels: Annotated[int, Field(ge=1, le=16)] = 1
    heads: Count = 8
    dropout: Share = 0.2


@dataclass(frozen=True, kw_only=True)
class HANOptions(Options):
    """The sizes of :class:`mettle_cache.decoders.han.HAN`; its width is that of the meta-tokens."""

    ffn: Count = 512
    heads: Count = 1
    dropout: Share = 0.1


@dataclass(frozen=True, kw_only=True)
class MGNOptions(Options):
    """The switches of :class:`mettle_cache.decoders.mgn.MGN`."""

    drop_path: Share = 0.1
    temporal_gate: bool = True
    hard: bool = True


@dataclass(frozen=True, kw_only=True)
class ParsingHeadOptions(Options):
    """The head of video parsing; ``decoder`` says which of ``mmpyr``, ``han`` and ``mgn`` counts.

    ``motion`` adds the R(2+1)D features (visual_st in the published code): ``auto`` for ``mgn`` only. The targets of a
    modality move by ``smoothing_...`` towards a half. ``video_mask`` lets a segment have only the categories that the
    video as a whole is given.
    """

    decoder: Literal["mmpyr", "han", "mgn"] = "mmpyr"
    motion: bool | Literal["auto"] = "auto"
    smoothing_audio: Amount = 0.0
    smoothing_visual: Amount = 0.1
    video_mask: bool = True
    mmpyr: MMPyrOptions = field(default_factory=MMPyrOptions)
    han: HANOptions = field(default_factory=HANOptions)
    mgn: MGNOptions = field(default_factory=MGNOptions)

    @property
    def reads_motion(self) -> bool:
        return self.decoder == "mgn" if self.motion == "auto" else self.motion
