"""How a method is configured, in every task alike. Ranges are checked where a recipe is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from mettle_cache.options import STRICT, Count


@dataclass(frozen=True, kw_only=True)
class LCDOptions:
    """The switches of Layer-Centric Distillation (Tables 6 to 10); see :class:`mettle_cache.methods.lcd.LCD`.

    ``dim`` is d, or ``none`` for no projection. ``k_visual`` and ``k_audio`` are K, one number or one for each stage
    that is read; ``steps_visual`` and ``steps_audio`` are R. ``task_specific`` is TS, ``pretrained_branch`` is DP.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dim: Count | Literal["none"] = 256
    k_visual: Count | tuple[Count, ...] = 1
    k_audio: Count | tuple[Count, ...] = 1
    steps_visual: Count = 1
    steps_audio: Count = 1
    heads: Count = 8
    task_specific: bool = True
    pretrained_branch: Literal["linear", "avgpool", "none"] = "linear"
    norm: bool = True
    residual: bool = False
    attention: Literal["absorbed", "stock"] = "absorbed"

    def __post_init__(self) -> None:
        if not self.task_specific and self.pretrained_branch == "none":
            raise ValueError("task_specific = false and pretrained_branch = 'none' together leave nothing to train")


@dataclass(frozen=True, kw_only=True)
class LinearOptions:
    """Linear probing of the last layer; ``dim`` is its output width, or ``none`` for the layer's own."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dim: Count | Literal["none"] = 256


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Which method turns tokens into meta-tokens, and how; ``name`` says which of the others counts."""

    name: Literal["lcd", "linear"] = "lcd"
    lcd: LCDOptions = field(default_factory=LCDOptions)
    linear: LinearOptions = field(default_factory=LinearOptions)
