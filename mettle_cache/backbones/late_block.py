"""Taking the last block and the final norm out of a backbone, as a :class:`~mettle_cache.late_bundle.LateBundle`.

Three kinds of blocks are known: timm's Swin-V2 (cosine attention, norms after the branches), timm's Swin (HTS-AT's too)
and timm's plain ViT. A windowed block is taken only where its window covers the whole last grid, without a shift: then
it is plain attention over all tokens with a constant bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import GELU, Attention, LayerScale, Mlp
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import LateBlock, LateBundle
from mettle_cache.layers import LayerSpec

# Swin-V2's own bounds: of the learned logit scale, and of the bias (Liu et al., equation 2 and section 3.3)
LARGEST_LOGIT_SCALE = math.log(1.0 / 0.01)
BIAS_RANGE = 16


@torch.no_grad()
def late_bundle(block: nn.Module, final: nn.Module | None, layers: Sequence[LayerSpec], name: str) -> LateBundle:
    """The bundle of ``block``, the last of a backbone's ``layers``, and of its norm ``final``; ``name`` is for errors.

    Raises
    ------
    UsageError
        The block is of no kind that can be replayed; says why.
    """
    if len(layers) < 2:
        raise UsageError(f"{name} has but one layer, so nothing enters a last block")
    before, layer = layers[-2:]
    if isinstance(block, SwinTransformerV2Block | SwinTransformerBlock):
        _require_one_window(block, layer, name)
    elif type(block) is not Block or type(block.attn) is not Attention:
        raise UsageError(f"{name} ({type(block).__name__}) has no attention block to replay")
    known: Any = block
    _require_plain(known, name)
    post = isinstance(block, SwinTransformerV2Block)
    tensors = {
        **_pair("norm1", known.norm1),
        **_pair("norm2", known.norm2),
        **_attention(known.attn),
        **_pair("proj", known.attn.proj),
        **_pair("fc1", known.mlp.fc1),
        **_pair("fc2", known.mlp.fc2),
        **{f"scale{n}": s.gamma for n, s in _layer_scales(known)},
        **(_pair("final", final) if isinstance(final, nn.LayerNorm) else {}),
    }
    described = LateBlock(
        family="swinv2" if post else "vit" if type(block) is Block else "swin",
        layer=layer,
        before=before,
        heads=known.attn.num_heads,
        norm="post" if post else "pre",
        attention="cosine" if post else "dot",
        eps=known.norm1.eps,
        final_eps=final.eps if isinstance(final, nn.LayerNorm) else known.norm1.eps,
    )
    return LateBundle(described, {key: value.detach().float().cpu() for key, value in tensors.items()})


def _require_one_window(block: Any, layer: LayerSpec, name: str) -> None:
    rows, columns = layer.grid
    window, shift = tuple(block.window_size), tuple(block.shift_size)
    if window != layer.grid or any(shift):
        raise UsageError(
            f"{name}: the windows of its last block are {window[0]} x {window[1]}"
            f"{' and shifted' if any(shift) else ''}, its last grid is {rows} x {columns}, so the block cannot be "
            "replayed as attention over the whole grid"
        )


def _require_plain(block: Any, name: str) -> None:
    """Refuse what the replay does not compute: other norms, activations and gates than the published backbones have."""
    attention, mlp = block.attn, block.mlp
    plain = (
        type(mlp) is Mlp
        and isinstance(mlp.act, nn.GELU | GELU)
        and getattr(mlp.act, "approximate", "none") == "none"
        and isinstance(mlp.norm, nn.Identity)
        and all(isinstance(norm, nn.LayerNorm) for norm in (block.norm1, block.norm2))
        and block.norm1.eps == block.norm2.eps
        and all(isinstance(getattr(attention, extra, nn.Identity()), nn.Identity) for extra in ("q_norm", "k_norm"))
        and isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity)
        and getattr(attention, "gate", None) is None
        and attention.proj.weight.shape[0] == attention.proj.weight.shape[1]
    )
    if not plain:
        raise UsageError(f"{name}: its last block is no plain attention block, so it cannot be replayed")


def _attention(attention: Any) -> dict[str, Tensor]:
    """Queries, keys and values, and what makes the logits."""
    tensors = {"qkv_weight": attention.qkv.weight}
    if hasattr(attention, "cpb_mlp"):
        if attention.q_bias is not None:
            tensors["qkv_bias"] = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        tensors["scale"] = torch.clamp(attention.logit_scale, max=LARGEST_LOGIT_SCALE).exp()
        table = attention.cpb_mlp(attention.relative_coords_table).view(-1, attention.num_heads)
        tensors["bias"] = BIAS_RANGE * torch.sigmoid(_expand(table, attention.relative_position_index))
        return tensors
    if attention.qkv.bias is not None:
        tensors["qkv_bias"] = attention.qkv.bias
    if hasattr(attention, "relative_position_bias_table"):
        tensors["bias"] = _expand(attention.relative_position_bias_table, attention.relative_position_index)
    return tensors


def _expand(table: Tensor, index: Tensor) -> Tensor:
    """``[H, N, N]`` from a bias by relative position, ``[positions, H]``, and the positions of each pair of tokens."""
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous()


def _pair(name: str, module: nn.Module) -> dict[str, Tensor]:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor), "linears and norms have weights"
    # a linear or a norm without a bias adds zeros
    return {
        f"{name}_weight": weight,
        f"{name}_bias": bias if isinstance(bias, Tensor) else weight.new_zeros(len(weight)),
    }


def _layer_scales(block: Any) -> list[tuple[int, LayerScale]]:
    scales = [(number, getattr(block, f"ls{number}", None)) for number in (1, 2)]
    return [(number, scale) for number, scale in scales if isinstance(scale, LayerScale)]
