"""timm networks: how each is built and given weights, where its blocks are, and what tokens each block gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from mettle_cache.backbones.trunk import FrozenTrunk, build_seeded
from mettle_cache.devices import seeded
from mettle_cache.errors import UsageError, WeightsError
from mettle_cache.layers import LayerSpec
from mettle_cache.meta_device import on_meta
from mettle_cache.statedict import explain_mismatch, read_state_dict


def pretrained_cfg(name: str) -> dict[str, Any]:
    """What timm knows about a model's pretraining: input size, mean, std, interpolation, classifier, hub."""
    return dict(timm.get_pretrained_cfg(name).to_dict())


def build_meta(name: str, size: int | None, *, classifier: bool = False) -> nn.Module:
    """The network without storage, in a fraction of a second.

    Raises
    ------
    UsageError
        The network cannot be built for this input size.
    """
    with on_meta():
        return _create(name, size, {} if classifier else {"num_classes": 0}).eval()


def build_random(name: str, size: int | None, seed: int) -> nn.Module:
    """The network without its classifier, its weights drawn from a seed."""
    return build_seeded(lambda: _create(name, size, {"num_classes": 0}), seed)


def build_from_file(name: str, size: int | None, path: Path) -> tuple[nn.Module, str]:
    """The network without its classifier, with the weights of a file: all of them, and no others; and their source.

    timm's own filter for the architecture runs on the file first: it knows the original repositories' key names and
    resamples position embeddings to the input size.

    Raises
    ------
    WeightsError
        A file that :func:`read_state_dict` refuses, or one of another architecture.
    """
    weights = read_state_dict(path, build_meta(name, size, classifier=True).state_dict())
    state = _without_classifier(weights.tensors, pretrained_cfg(name))
    overlay = {"state_dict": dict(state), "num_classes": 0, "classifier": None, "label_offset": 0, "custom_load": False}
    arguments = {"num_classes": 0, "pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        # the initial values are overwritten, but drawing them must not move the caller's random state
        with seeded(0):
            network = _create(name, size, arguments)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError) as error:
        expected = build_meta(name, size).state_dict()
        raise WeightsError(
            explain_mismatch(expected, state, f"weights file {path}") + f": it is not for '{name}'",
            hint="give the weights of this very architecture, or name the backbone that they belong to",
        ) from error
    vars(network)["pretrained_cfg"].pop("state_dict", None)
    return network, weights.source


def _create(name: str, size: int | None, arguments: dict[str, Any]) -> nn.Module:
    # only networks of a fixed input size have it as an argument; others take any picture
    if size is not None and pretrained_cfg(name).get("fixed_input_size"):
        arguments = {**arguments, "img_size": size}
    try:
        network: nn.Module = timm.create_model(name, **arguments)
    except (TypeError, AssertionError, ZeroDivisionError) as error:
        if arguments.get("pretrained"):
            raise
        raise UsageError(
            f"backbone '{name}' cannot be built{f' for {size} pixels' if size else ''}: {error}",
            hint="give another size, as in NAME@224, or leave it out",
        ) from error
    return network


def _without_classifier(state: dict[str, Tensor], cfg: dict[str, Any]) -> dict[str, Tensor]:
    """Tokens need no classifier, so a file may have one or not, and of any number of classes."""
    names = cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    dropped = {
        f"{head}.{part}" for name in names for head in (name, name.partition(".")[0]) for part in ("weight", "bias")
    }
    return {key: value for key, value in state.items() if key not in dropped}


FINEST_STRIDE = 4


@dataclass(frozen=True)
class Taps:
    """The modules whose outputs are layers, with the (stage, block) of each, both from 1.

    ``layout`` is ``NHWC`` for Swin blocks, ``NLC`` for ViT blocks, ``NCHW`` for the maps of a CNN. ``strides`` holds
    pixels a token side for maps, to check them by; it is empty otherwise.
    """

    modules: tuple[nn.Module, ...]
    places: tuple[tuple[int, int], ...]
    layout: str
    strides: tuple[int, ...] = ()


def find_taps(network: nn.Module, name: str, *, final_norm: bool = False, embedding: bool = False) -> Taps:
    """Every block of a Swin or ViT; the stage maps of a CNN, from stride 4 on (a stem's finer maps are no stage).

    ``final_norm`` takes the last block's output after the network's final norm, ``embedding`` what enters the first
    block as block 0 of stage 1, where there is one.

    Raises
    ------
    UsageError
        The architecture is none of these.
    """
    for find in (_swin_taps, _vit_taps, _pyramid_taps):
        taps = find(network)
        if taps is not None:
            taps = _after_norm(network, taps) if final_norm else taps
            return _with_embedding(network, taps) if embedding else taps
    raise UsageError(
        f"backbone '{name}' ({type(network).__name__}) is no Swin, ViT or feature-pyramid CNN: its blocks are unknown",
        hint="choose another timm model; `mettle backbones` lists the published ones",
    )


def _after_norm(network: nn.Module, taps: Taps) -> Taps:
    norm = getattr(network, "norm", None)
    if taps.layout == "NCHW" or not isinstance(norm, nn.LayerNorm):
        return taps
    return replace(taps, modules=(*taps.modules[:-1], norm))


def _with_embedding(network: nn.Module, taps: Taps) -> Taps:
    """The patch embedding first: of a Swin its own output; of a ViT with positions, class tokens and the norm before.

    Other networks may bring something else between it and the first block.
    """
    kind = type(network).__name__
    inputs = {"SwinTransformer": "patch_embed", "SwinTransformerV2": "patch_embed", "VisionTransformer": "norm_pre"}
    module = getattr(network, inputs.get(kind, ""), None)
    if not isinstance(module, nn.Module):
        return taps
    return replace(taps, modules=(module, *taps.modules), places=((1, 0), *taps.places))


def _swin_taps(network: nn.Module) -> Taps | None:
    # timm 1.0.x merges patches at the start of a stage, so a block's output is always before the next merging
    stages = getattr(network, "layers", None) or getattr(network, "stages", None)
    if not type(network).__name__.startswith("SwinTransformer") or stages is None:
        return None
    places = [(s, b) for s, stage in enumerate(stages, 1) for b in range(1, len(stage.blocks) + 1)]
    return Taps(tuple(block for stage in stages for block in stage.blocks), tuple(places), "NHWC")


def _vit_taps(network: nn.Module) -> Taps | None:
    blocks = getattr(network, "blocks", None)
    if blocks is None or not hasattr(network, "num_prefix_tokens") or not hasattr(network, "patch_embed"):
        return None
    return Taps(tuple(blocks), tuple((1, b) for b in range(1, len(blocks) + 1)), "NLC")


def _pyramid_taps(network: nn.Module) -> Taps | None:
    modules = dict(network.named_modules())
    features = [dict(entry) for entry in getattr(network, "feature_info", None) or ()]
    features = [entry for entry in features if int(entry["reduction"]) >= FINEST_STRIDE]
    if not features or any(entry["module"] not in modules for entry in features):
        return None
    return Taps(
        tuple(modules[entry["module"]] for entry in features),
        tuple((stage, 1) for stage in range(1, len(features) + 1)),
        "NCHW",
        tuple(int(entry["reduction"]) for entry in features),
    )


def trace_layers(
    network: nn.Module,
    taps: Taps,
    name: str,
    modality: str,
    size: tuple[int, int],
    run: Callable[[Tensor], object] | None = None,
) -> tuple[LayerSpec, ...]:
    """The layer table, from a forward pass of a network on the meta device: shapes without arithmetic.

    Raises
    ------
    UsageError
        The network does not take this size, or its maps are not those that timm announces.
    """
    trunk = FrozenTrunk(network, taps.modules, taps.layout)
    grids: list[tuple[int, ...]] = []
    hooks = [
        tap.register_forward_hook(lambda _module, _inputs, output: grids.append(tuple(output.shape)))
        for tap in taps.modules
    ]
    try:
        tokens = trunk(torch.empty((1, 3, *size), device="meta"), run)
    except (RuntimeError, AssertionError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"backbone '{name}' does not take pictures of {size[0]} x {size[1]}: {str(error).splitlines()[0]}",
            hint="give another size, as in NAME@224, or leave it out",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(
        _layer(network, taps, index, modality, size, grids[index], tokens[index], name)
        for index in range(len(taps.modules))
    )


def _layer(
    network: Any,
    taps: Taps,
    index: int,
    modality: str,
    size: tuple[int, int],
    shape: tuple[int, ...],
    tokens: Tensor,
    name: str,
) -> LayerSpec:
    _, count, width = tokens.shape
    if taps.layout == "NLC":
        rows, columns = (side // patch for side, patch in zip(size, patch_size(network), strict=True))
        fits = count == rows * columns + int(network.num_prefix_tokens)
    else:
        rows, columns = shape[1:3] if taps.layout == "NHWC" else shape[2:4]
        stride = taps.strides[index] if taps.strides else 0
        fits = not stride or (rows, columns) == tuple(-(-side // stride) for side in size)
    if not fits:
        raise UsageError(f"backbone '{name}': block {index + 1} gives {count} tokens, not the grid that timm announces")
    stage, block = taps.places[index]
    return LayerSpec(modality=modality, stage=stage, block=block, grid=(rows, columns), tokens=count, width=width)


def patch_size(network: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels; (1, 1) for a network without patches."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))


def read_any_grid(network: Any) -> Callable[[Tensor], Tensor]:
    """``forward_features`` for pictures [B, 3, H, W] of any size, as LAVISH reads a log-mel with a ViT.

    All rows of the position embedding, the class token's included, are interpolated linearly along the token axis to
    the number of tokens; pixels that do not fill a patch are left out. 102 x 128 gives 1 + 6 * 8 = 49 tokens.
    """

    def run(x: Tensor) -> Tensor:
        patches = network.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((network.cls_token.expand(len(x), -1, -1), network.patch_embed.norm(patches)), dim=1)
        positions = network.pos_embed.transpose(1, 2)
        positions = functional.interpolate(positions, tokens.shape[1], mode="linear", align_corners=False)
        features: Tensor = network.norm(network.blocks(network.norm_pre(tokens + positions.transpose(1, 2))))
        return features

    return run
