"""Adapters inside of the backbones, after the pattern of LAVISH (Lin et al., CVPR 2023): what Mettle does without.

In every block an adapter stands beside the attention and another one beside the MLP. Each reads its own modality's
tokens and, through a few latent tokens, those of the other one; what it gives is added to the block's. So every block's
output depends on what is trained, and gradients go back through all blocks of both backbones, though their weights are
frozen. A baseline of ``mettle bench costs`` and no method: it cannot be trained from a store.

Facts are LAVISH's: 2 latents, a bottleneck of D/8 in 2 groups, gates that start at 0. With one backbone for both
modalities and LAVISH's classifier its parameters add up to the published totals (238.8 M with Swin-V2-L, 340.1 M with
ViT-L/16). For two backbones two choices are ours, because the source has none: a linear brings the other modality's
tokens to an adapter's width, and blocks of a stage are paired as its peers pair them, each HTS-AT block with the last
of the Swin blocks that fall to it.

Shapes: F frames, N own tokens of D channels, M tokens of the other modality of C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mettle_cache.backbones import Backbone
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec

LATENTS, REDUCTION, GROUPS = 2, 8, 2


class Adapter(nn.Module):
    """One adapter: ``[F, N, D]`` to what is added to the same tokens.

    The latents take up the other modality's tokens, and the own tokens take up the latents, by dot products without
    projections or a scale; then LayerNorm, a bottleneck of grouped linears with BatchNorm, LayerNorm, and a gate.
    """

    def __init__(self, width: int, other_width: int) -> None:
        super().__init__()
        inner = width // REDUCTION
        self.align = nn.Identity() if width == other_width else nn.Linear(other_width, width, bias=False)
        self.latents = nn.Parameter(torch.rand(LATENTS, width))
        self.compress_gate = nn.Parameter(torch.ones(1))
        self.cross_gate = nn.Parameter(torch.zeros(1))
        self.norm_before = nn.LayerNorm(width)
        self.down = nn.Conv1d(width, inner, 1, groups=GROUPS, bias=False)
        self.norm_down = nn.BatchNorm1d(inner)
        self.up = nn.Conv1d(inner, width, 1, groups=GROUPS, bias=False)
        self.norm_up = nn.BatchNorm1d(width)
        self.norm_after = nn.LayerNorm(width)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """From own tokens ``[F, N, D]`` and the other modality's ``[F, M, C]``."""
        other = self.align(other)
        heard = (self.latents @ other.mT).softmax(-1) @ other
        latents = self.latents + self.compress_gate * heard
        x = tokens + self.cross_gate * ((tokens @ latents.mT).softmax(-1) @ latents)
        x = self.norm_down(self.down(self.norm_before(x).mT)).relu()
        given: Tensor = self.norm_after(self.norm_up(self.up(x)).mT)
        return self.gate * given


@dataclass(frozen=True)
class _Place:
    """A frozen block: its layer, the patch merging before it (None where there is none), and its two halves."""

    layer: LayerSpec
    merge: Callable[[Tensor], Tensor] | None
    attention: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


class AdaptedBackbones(nn.Module):
    """Both backbones with adapters in every block; only the adapters are parameters of this module.

    Raises
    ------
    UsageError
        A backbone has no transformer blocks, or the two differ in their number of stages.
    """

    def __init__(self, visual: Backbone, audio: Backbone) -> None:
        super().__init__()
        # in a tuple, because frozen weights are no parameters of this module
        self._backbones = (visual, audio)
        self._places = (_places(visual), _places(audio))
        layers = [[place.layer for place in places] for places in self._places]
        self._pairs = pair_blocks(*layers)
        self.visual, self.audio = make_adapters(*layers)

    def forward(self, visual: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Tokens ``[F, N, D]`` of every block by layer name, from inputs of the backbones' ``segment_shape``."""
        inputs = (visual, audio)
        seen, heard = (first_input(b, p, x) for b, p, x in zip(self._backbones, self._blocks(), inputs, strict=True))
        outputs: dict[str, Tensor] = {}
        start = 0
        for last, number in self._pairs:
            audio_place = self._places[1][number]
            heard = _merged(audio_place, heard)
            for index in range(start, last + 1):
                place = self._places[0][index]
                seen = _merged(place, seen)
                adapters = [self.visual[index], self.audio[number] if index == last else None]
                seen, heard = _pass_block((place, audio_place), adapters, seen, heard)
                outputs[place.layer.name] = _flat(seen)
            outputs[audio_place.layer.name] = _flat(heard)
            start = last + 1
        return outputs

    def _blocks(self) -> list[nn.Module]:
        return [cast(Any, backbone).trunk.taps[0] for backbone in self._backbones]


def pair_blocks(visual: Sequence[LayerSpec], audio: Sequence[LayerSpec]) -> list[tuple[int, int]]:
    """Pairs of blocks whose modalities read each other, by position, in the order in which they run.

    The modality with more blocks in a stage runs the others alone before the pair. Swin-V2-L's third stage of 18 blocks
    meets HTS-AT's of 6 at its blocks 3, 6, ..., 18.

    Raises
    ------
    UsageError
        Different numbers of stages, or an audio stage of more blocks than the visual one.
    """
    stages = [[layer.stage for layer in layers] for layers in (visual, audio)]
    counts = [{stage: numbers.count(stage) for stage in numbers} for numbers in stages]
    if counts[0].keys() != counts[1].keys() or any(counts[1][stage] > count for stage, count in counts[0].items()):
        raise UsageError(
            f"stages of {list(counts[0].values())} and {list(counts[1].values())} blocks cannot be paired: adapters "
            "want as many stages, and in none more blocks for sound than for pictures"
        )
    pairs, seen, heard = [], 0, 0
    for stage, count in counts[0].items():
        others = counts[1][stage]
        pairs += [(seen + count * (n + 1) // others - 1, heard + n) for n in range(others)]
        seen, heard = seen + count, heard + others
    return pairs


def make_adapters(visual: Sequence[LayerSpec], audio: Sequence[LayerSpec]) -> tuple[nn.ModuleList, nn.ModuleList]:
    """For every block of each modality two adapters, beside its attention and beside its MLP.

    A visual block reads the tokens that the audio block of the next pair reads.

    Raises
    ------
    UsageError
        As :func:`pair_blocks`.
    """
    seen, heard, start = nn.ModuleList(), nn.ModuleList(), 0
    for last, number in pair_blocks(visual, audio):
        other = audio[number].width
        seen.extend(_two(layer.width, other) for layer in visual[start : last + 1])
        heard.append(_two(other, visual[last].width))
        start = last + 1
    return seen, heard


class _ReachedError(Exception):
    """Carries the first block's input out of a backbone's forward pass."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def first_input(backbone: Backbone, block: nn.Module, x: Tensor) -> Tensor:
    """What the backbone's own front end and patch embedding give its first block, without a graph."""

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _ReachedError(inputs[0])

    hook = block.register_forward_pre_hook(stop)
    try:
        backbone.forward_tokens(x)
    except _ReachedError as reached:
        # out of inference mode, whose tensors autograd refuses
        return reached.tokens.clone()
    finally:
        hook.remove()
    raise AssertionError("a backbone calls its first block")


def _two(width: int, other_width: int) -> nn.ModuleList:
    """The adapters beside a block's attention and beside its MLP."""
    return nn.ModuleList(Adapter(width, other_width) for _ in range(2))


def _pass_block(
    places: tuple[_Place, _Place], adapters: Sequence[nn.Module | None], seen: Tensor, heard: Tensor
) -> tuple[Tensor, Tensor]:
    """Both modalities through their blocks, or the visual one alone where the audio block's turn has not come."""
    visual, audio = adapters
    for number, half in enumerate(("attention", "mlp")):
        # both read what was before this half
        own, other = _flat(seen), _flat(heard)
        given = cast(nn.ModuleList, visual)[number](own, other)
        if audio is not None:
            back = cast(nn.ModuleList, audio)[number](other, own)
            heard = getattr(places[1], half)(heard) + back.view_as(heard)
        seen = getattr(places[0], half)(seen) + given.view_as(seen)
    return seen, heard


def _merged(place: _Place, x: Tensor) -> Tensor:
    return x if place.merge is None else place.merge(x)


def _flat(x: Tensor) -> Tensor:
    """``[F, rows, columns, D]`` as ``[F, N, D]``."""
    return x.flatten(1, 2) if x.ndim == 4 else x


def _places(backbone: Backbone) -> list[_Place]:
    """Every block of a backbone, in the order in which they run."""
    trunk = cast(Any, backbone).trunk
    taps = trunk.taps
    if not all(isinstance(block, SwinTransformerBlock | SwinTransformerV2Block | Block) for block in taps):
        raise UsageError(f"backbone '{backbone.name}' has no transformer blocks, in which adapters could stand")
    stages = [module for module in trunk.network.modules() if hasattr(module, "downsample")]
    merges = {id(stage.blocks[0]): stage.downsample for stage in stages}
    return [
        _Place(layer, merges.get(id(block)), *_halves(block))
        for layer, block in zip(backbone.layers, taps, strict=True)
    ]


def _halves(block: Any) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A block's attention and MLP, each with its residual connection, as timm runs them without stochastic depth."""
    if isinstance(block, SwinTransformerV2Block):
        return lambda x: x + block.norm1(block._attn(x)), lambda x: x + block.norm2(block.mlp(x))
    if isinstance(block, SwinTransformerBlock):
        return lambda x: x + block._attn(block.norm1(x)), lambda x: x + block.mlp(block.norm2(x))
    return (
        lambda x: x + block.ls1(block.attn(block.norm1(x))),
        lambda x: x + block.ls2(block.mlp(block.norm2(x))),
    )
