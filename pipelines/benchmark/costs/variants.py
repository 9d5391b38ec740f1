"""What ``mettle bench costs`` measures of a setting: methods from stores, online, and adapters in the backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mettle_cache.errors import UsageError
from mettle_cache.methods.registry import METHODS
from mettle_cache.pipelines.benchmark.costs import published
from mettle_cache.pipelines.benchmark.costs.child import ADAPTERS, BACKBONES, STORE, CostRequest
from mettle_cache.pipelines.benchmark.costs.setting import CostSetting
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.tasks.registry import get_task

CODEC = "int8"
"""What every method is trained from; the paper's own method from the others, too."""
CODECS = (CODEC, "float16", "klt1.5")
LAVISH, OWN = "lavish", "lcd"
ONLINE_NAME = "lcd, backbones in every step"
# steps that are timed, and those before them: a step from a store is short, and the first ones compare checksums
STEPS, UNTIMED = 8, 5
INFERENCES, WHOLE_INFERENCES = 5, 1


@dataclass(frozen=True)
class Variant:
    """A way to train. ``method`` is ours or ``lavish``; ``published`` what the paper calls it, if it has it.

    ``codec`` is that of the store it reads, if any; ``beside`` the variant that it is compared with.
    """

    name: str
    method: str
    codec: str | None
    published: str | None
    beside: str
    request: CostRequest


def cached_name(method: str, codec: str) -> str:
    """For example ``lcd from int8``."""
    return f"{method} from {codec}"


def chosen_methods(setting: CostSetting, asked: Sequence[str]) -> list[str]:
    """The methods to measure: those that were asked for, else those of the paper's tables that there are here.

    Raises
    ------
    UsageError
        There is no such method, or the setting's task does not take it.
    """
    accepted = get_task(setting.task).methods
    known = [name for name in METHODS.names() if accepted is None or name in accepted]
    if not asked:
        return [*(name for name in published.METHODS if name in known), LAVISH]
    for name in asked:
        if name not in (*known, LAVISH):
            raise UsageError(
                f"--method {name}: no such method for {setting.row.setting}",
                hint=f"one of: {', '.join((*known, LAVISH))}",
            )
    return list(dict.fromkeys(asked))


def codecs_of(setting: CostSetting, methods: Sequence[str]) -> tuple[str, ...]:
    """The codecs of the stores that the methods are trained from."""
    if setting.recipe().method in methods:
        return CODECS
    return () if set(methods) <= {LAVISH} else (CODEC,)


def cost_variants(
    setting: CostSetting, methods: Sequence[str], stores: Path, device: torch.device, options: BenchOptions
) -> list[Variant]:
    """Every variant of the methods, in the order of the table; a store lies in ``stores`` under its codec's name."""
    base = CostRequest(
        setting=setting.row.setting,
        method=None,
        source=STORE,
        batch=options.batch or 1,
        steps=0 if options.latency else STEPS,
        untimed=UNTIMED,
        inferences=INFERENCES,
        device=str(device),
        tiny=options.tiny,
    )
    # these take seconds to minutes each, of which loading code is no noticeable part
    slow = replace(base, steps=min(base.steps, 1), untimed=1, inferences=WHOLE_INFERENCES)
    own, base_name = setting.recipe().method, cached_name(OWN, CODEC)
    variants = []
    for method in methods:
        if method == LAVISH:
            request = replace(slow, source=ADAPTERS)
            variants.append(Variant(LAVISH, LAVISH, None, published.ADAPTERS, ONLINE_NAME, request))
            continue
        name = None if method == own else method
        for codec in CODECS if method == own else (CODEC,):
            request = replace(base, method=name, store=str(stores / codec))
            theirs = published.METHODS.get(method)
            variants.append(Variant(cached_name(method, codec), method, codec, theirs, base_name, request))
        if method == own:
            request = replace(slow, source=BACKBONES)
            variants.append(Variant(ONLINE_NAME, method, None, published.OURS, base_name, request))
    return variants
