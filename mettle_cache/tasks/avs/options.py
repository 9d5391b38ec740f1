"""The ``[head]`` table of a segmentation recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from mettle_cache.tasks.options import STRICT, Count

Level = Annotated[int, Field(ge=1, le=4)]


@dataclass(frozen=True, kw_only=True)
class AvsHeadOptions:
    """What lies between the stored tokens and the masks; levels count the pyramid's four stages from 1, fine to coarse.

    Attributes
    ----------
    mti
        Inject meta-tokens; without it the decoder sees the stages alone, and no LCD is built.
    cross, intra, order, inject_into, softmax_over, identity
        See :class:`mettle_cache.methods.mti.MTI` (Table 11 and the text beside it).
    lcd_levels
        The levels whose tokens LCD reads, of both modalities; all their meta-tokens are injected (Table 12).
    out_proj, shared_steps
        See :class:`mettle_cache.methods.plain_distiller.PlainDistiller`.
    lateral, width
        See :class:`mettle_cache.decoders.fpn.FPN`.
    tpavi
        AVSBench's interaction over all frames, between the laterals and the pyramid.
    matching
        ``kl`` adds AVSBench's audio-visual matching term, times ``matching_weight``.
    group
        Videos that share a threshold in the F-measure.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    mti: bool = True
    cross: bool = True
    intra: bool = True
    order: Literal["cross_first", "intra_first"] = "cross_first"
    inject_into: tuple[Level, ...] = (1, 2, 3, 4)
    softmax_over: Literal["meta_tokens", "positions"] = "meta_tokens"
    identity: bool = True
    lcd_levels: tuple[Level, ...] = (4,)
    out_proj: bool = False
    shared_steps: bool = False
    lateral: Literal["linear", "dilated"] = "linear"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 256
    tpavi: bool = False
    matching: Literal["off", "kl"] = "off"
    matching_weight: Annotated[float, Field(ge=0)] = 0.5
    group: Count = 4

    def __post_init__(self) -> None:
        if self.mti and not (self.cross or self.intra):
            raise ValueError("cross = false and intra = false together inject nothing: set mti = false")
        for name in ("inject_into", "lcd_levels"):
            levels = getattr(self, name)
            if not levels or len(set(levels)) < len(levels):
                raise ValueError(f"{name} must name at least one level, each once")
        if self.matching == "kl" and not (self.tpavi or (self.mti and self.cross)):
            raise ValueError("matching = 'kl' compares with the sound: it needs mti with cross, or tpavi")
