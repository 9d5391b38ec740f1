"""The late bundle: a backbone's last block and final norm, as a companion of a store.

Stage one takes it out of the backbone (:mod:`mettle_cache.backbones.late_block`), stage two replays it from the stored
tokens of the block before, with gradients to them (:mod:`mettle_cache.methods.late_block`). What both have to agree on
stands here: the names and shapes of the tensors, and what the description says.

Shapes: N tokens of the last grid, D channels, H heads, M hidden channels.

========================  ==============  =====================================================================
tensor                    shape           what it is
========================  ==============  =====================================================================
``norm1_*``, ``norm2_*``  ``[D]``         norms of the two branches: before them (``pre``) or after them (``post``)
``qkv_weight``            ``[3 D, D]``    queries, keys and values of all heads
``qkv_bias``              ``[3 D]``       absent where the block has none
``scale``                 ``[H, 1, 1]``   ``cosine`` only: what cosines are multiplied by, as the block clamps it
``bias``                  ``[H, N, N]``   absent without one: what is added to the logits, evaluated
``proj_*``                ``[D, D]``      the output projection
``fc1_*``, ``fc2_*``      ``[M, D]``, ``[D, M]``  the feed-forward layers, GELU between them
``scale1``, ``scale2``    ``[D]``         absent without: the branches' layer scales
``final_*``               ``[D]``         the backbone's final norm; absent without one
========================  ==============  =====================================================================

``*`` stands for ``weight`` and ``bias``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mettle_cache.companions import STORE, SUFFIX, Companion, HeldCompanion
from mettle_cache.errors import StoreCorruptError, UsageError
from mettle_cache.layers import MODALITIES, LayerSpec
from mettle_cache.options import STRICT

KIND = "late-block"
PLANNED = "planned"
"""In the place of a store's key digest, where there is no store yet."""


def bundle_name(modality: str) -> str:
    """The companion's file name, for example ``late-visual.safetensors``."""
    return f"late-{modality}{SUFFIX}"


@dataclass(frozen=True, kw_only=True)
class LateBlock:
    """What a last block is, beside its weights.

    Attributes
    ----------
    family
        ``swinv2``, ``swin`` (HTS-AT too) or ``vit``; for people.
    layer, before
        The block, and the one whose tokens enter it.
    heads
        Attention heads.
    norm
        Whether the branches' norms stand before them or after.
    attention
        ``dot``: scaled by one over the root of a head's width; ``cosine``: by the tensor ``scale``.
    eps, final_eps
        Of the branches' norms and of the final one.
    """

    __pydantic_config__ = STRICT

    family: str
    layer: LayerSpec
    before: LayerSpec
    heads: int
    norm: Literal["pre", "post"]
    attention: Literal["dot", "cosine"]
    eps: float
    final_eps: float

    def describe(self, store: str) -> dict[str, object]:
        """The description of the companion of the store with this key digest."""
        fields = {**asdict(self), "layer": self.layer.to_json(), "before": self.before.to_json()}
        return {"kind": KIND, STORE: store, "activation": "gelu", **fields}


@dataclass(frozen=True, eq=False)
class LateBundle:
    """A last block with its weights."""

    block: LateBlock
    tensors: Mapping[str, Tensor]


def describe_refusal(reason: str, store: str) -> dict[str, object]:
    """The description of a companion without tensors, which says why there is no block to replay."""
    return {"kind": KIND, STORE: store, "reason": reason}


def planned_bundles(layers: Sequence[LayerSpec]) -> dict[str, Companion]:
    """The late bundles by name that backbones with these layers would have, without values: to count and to plan by.

    Only a backbone itself can tell whether its last block can be replayed; here it is so wherever the last two layers
    are alike, which those of CNNs are not.
    """
    bundles: dict[str, Companion] = {}
    for modality in MODALITIES:
        own = [layer for layer in layers if layer.modality == modality]
        if own:
            bundles[bundle_name(modality)] = _planned(own)
    return bundles


def _planned(layers: Sequence[LayerSpec]) -> HeldCompanion:
    layer, before = layers[-1], layers[-2] if len(layers) > 1 else None
    if before is None or (before.array, before.width) != (layer.array, layer.width):
        reason = f"the backbone of {layer.name} has no attention block to replay"
        return HeldCompanion(describe_refusal(reason, PLANNED), {})
    block = LateBlock(
        family="planned", layer=layer, before=before, heads=1, norm="pre", attention="dot", eps=1e-5, final_eps=1e-5
    )
    d = layer.width
    shapes: dict[str, tuple[int, ...]] = {f"{norm}_weight": (d,) for norm in ("norm1", "norm2", "final")}
    shapes |= {"qkv_weight": (3 * d, d), "proj_weight": (d, d), "fc1_weight": (4 * d, d), "fc2_weight": (d, 4 * d)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return HeldCompanion(block.describe(PLANNED), tensors)


def read_block(companion: Companion, name: str) -> LateBlock:
    """The block that a companion describes; ``name`` is the companion's, for errors.

    Raises
    ------
    UsageError
        It says why there is none.
    StoreCorruptError
        It describes something else, or is damaged.
    """
    description = companion.description
    if isinstance(reason := description.get("reason"), str):
        raise UsageError(reason)
    try:
        if description.get("kind") != KIND or description.get("activation") != "gelu":
            raise ValueError("it is no block that this version knows")
        fields = {key: _unnamed(description[key]) for key in LateBlock.__dataclass_fields__}
        # JSON mode, because its strictness lets a list be a pair
        block = _BLOCK.validate_json(json.dumps(fields))
        _check_shapes(block, companion.shapes)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise StoreCorruptError(f"{name}: the late bundle is not one ({str(error).splitlines()[0]})") from error
    return block


_BLOCK = TypeAdapter(LateBlock)


def _unnamed(value: Any) -> Any:
    """A field as the dataclass has it: layers carry their name beside their fields."""
    return {key: field for key, field in value.items() if key != "name"} if isinstance(value, dict) else value


def _check_shapes(block: LateBlock, shapes: Mapping[str, tuple[int, ...]]) -> None:
    width, tokens, heads = block.layer.width, block.layer.tokens, block.heads
    hidden = shapes.get("fc1_weight", (0, 0))[0]
    expected: dict[str, tuple[int, ...]] = {
        **{f"{name}_{part}": (width,) for name in ("norm1", "norm2") for part in ("weight", "bias")},
        "qkv_weight": (3 * width, width),
        "proj_weight": (width, width),
        "proj_bias": (width,),
        "fc1_weight": (hidden, width),
        "fc1_bias": (hidden,),
        "fc2_weight": (width, hidden),
        "fc2_bias": (width,),
    }
    if block.attention == "cosine":
        expected["scale"] = (heads, 1, 1)
    optional: dict[str, tuple[int, ...]] = {
        "qkv_bias": (3 * width,),
        "bias": (heads, tokens, tokens),
        "scale1": (width,),
        "scale2": (width,),
        "final_weight": (width,),
        "final_bias": (width,),
    }
    wrong = [name for name, shape in expected.items() if shapes.get(name) != shape]
    wrong += [name for name, shape in shapes.items() if {**expected, **optional}.get(name) != shape]
    if wrong or width % heads:
        raise ValueError(f"tensors that do not fit: {', '.join(sorted(set(wrong))[:4]) or 'heads'}")
