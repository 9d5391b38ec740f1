"""The segmentation model: meta-tokens, MTI of them into the four stages, the pyramid decoder.

How a method gives its meta-tokens, if it gives any, says :data:`FEEDS`. Source: docs/protocols/avs.md.

Shapes: B videos, T frames (seconds), N tokens, K meta-tokens of d channels, C channels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.decoders.avsbench import AUDIO_WIDTH, TPAVI, matching_divergence
from mettle_cache.decoders.fpn import FPN, LEVELS
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.distiller import LayerDistiller, MatrixOptions
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.linear import LinearOptions, LinearProbe
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.methods.mti import MTI, InjectedTokens, MTIOptions, StageNumber, levels_problem
from mettle_cache.methods.protocol import MetaTokens, Method
from mettle_cache.methods.registry import MethodChoice
from mettle_cache.options import Count, Weight
from mettle_cache.tasks.avs.stage_mix import MixedTokens, StageMix, stage_layers
from mettle_cache.tasks.model import common_width, require_method
from mettle_cache.tasks.protocol import auxiliary_outputs
from mettle_cache.tokens import LayerTokens

Feed = Literal["levels", "tokens", "stages", "mixed"]

FEEDS: Mapping[str, Feed] = {
    "lcd": "levels",
    "linear": "levels",
    "molt": "tokens",
    "direct": "stages",
    "layermean": "mixed",
}
"""How each method feeds the masks.

``levels``: LCD or a probe of its own on each of ``lcd_levels``, and MTI. ``tokens``: the meta-tokens that the method
gives one by one (``Method.separate``), and MTI. ``stages``: the stored stages alone, as without MTI. ``mixed``: a
weighted sum of each stage's layers, and no MTI.
"""
AVS_METHODS = tuple(FEEDS)


@dataclass(frozen=True, kw_only=True)
class AvsHeadOptions(MTIOptions, MatrixOptions):
    """The ``[head]`` table: what lies between the tokens and the masks, with the keys of MTI and of LCD's matrices.

    Levels count the pyramid's four stages from 1, fine to coarse.

    Attributes
    ----------
    mti
        Inject meta-tokens; without it the decoder sees the stages alone, and no method is built. Methods that give
        no meta-tokens (direct, layermean) are always without.
    lcd_levels
        The levels whose tokens LCD or linear probing reads, of both modalities; all their meta-tokens are injected
        (Table 12). MoLT chooses its layers itself.
    lateral, width
        See :class:`mettle_cache.decoders.fpn.FPN`.
    tpavi
        AVSBench's interaction over all frames, between the laterals and the pyramid.
    matching
        ``kl`` adds AVSBench's audio-visual matching term, times ``matching_weight``.
    group
        Videos that share a threshold in the F-measure.
    """

    mti: bool = True
    lcd_levels: Annotated[tuple[StageNumber, ...], Field(max_length=4)] = (4,)
    lateral: Literal["linear", "dilated"] = "linear"
    width: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] = 256
    tpavi: bool = False
    matching: Literal["off", "kl"] = "off"
    matching_weight: Weight = 0.5
    group: Count = 4

    def problems(self) -> Sequence[str]:
        wrong = [*super().problems(), *levels_problem("lcd_levels", self.lcd_levels)]
        if self.mti and not (self.cross or self.intra):
            wrong.append("cross = false and intra = false together inject nothing: set mti = false")
        if self.matching == "kl" and not (self.tpavi or (self.mti and self.cross)):
            wrong.append("matching = 'kl' compares with the sound: it needs mti with cross, or tpavi")
        return wrong


class SegmentationModel(nn.Module):
    """Stored tokens of a video's frames to the logits of their masks.

    ``visual`` and ``audio`` are the levels of each modality, fine to coarse; of audio there may be the last ones only.
    ``offered`` are all layers, for methods that choose of them; default: the levels.
    """

    def __init__(
        self,
        visual: Sequence[LayerSpec],
        audio: Sequence[LayerSpec],
        method: MethodChoice,
        options: AvsHeadOptions,
        *,
        offered: Sequence[LayerSpec] = (),
    ) -> None:
        super().__init__()
        require_method(method, AVS_METHODS, reason="segmentation injects each meta-token by itself")
        options = without_mti(method, options)
        offered = offered or (*visual, *audio)
        self.stages = tuple(visual)
        self.fpn = FPN(visual, lateral=options.lateral, width=options.width)
        self.mix = StageMix(mixed_layers(offered, visual)) if FEEDS[method.name] == "mixed" else None
        self.visual = self.audio = None
        self.method: Method | None = None
        dim = _common_width(visual[-1], method) if FEEDS[method.name] == "levels" else 0
        if options.mti and FEEDS[method.name] == "tokens":
            self.method = method.build(offered)
            dim = common_width(self.method)
        elif options.mti:
            # counted from the last, which both modalities have
            read = [level - len(LEVELS) - 1 for level in options.lcd_levels]
            if options.intra:
                self.visual = LevelTokens([visual[level] for level in read], dim, method, options)
            if options.cross:
                self.audio = LevelTokens([audio[level] for level in read], dim, method, options)
        self.mti = MTI(visual, dim, options) if options.mti else None
        self.tpavi = SoundOverTime(audio[-1], options.width) if options.tpavi else None
        self.matching = options.matching == "kl"
        self.sound = (
            nn.ModuleList(nn.Linear(dim, options.width) for _ in visual)
            if self.matching and not options.tpavi
            else None
        )

    @property
    def kept_whole(self) -> dict[str, str]:
        """The LCDs, by their place, and why none of them folds."""
        reason = "segmentation injects each meta-token, and a folded LCD gives their mean alone"
        parts = {"visual": self.visual, "audio": self.audio}
        return {
            name: reason
            for name, part in parts.items()
            if part is not None and any(isinstance(source, LayerDistiller) for source in part.sources)
        }

    def forward(self, tokens: Mapping[str, LayerTokens]) -> dict[str, Tensor]:
        """Tokens ``[B, T, N, D]`` by layer name to ``logits [B, T, 224, 224]``; with matching, ``matching [B, T]``.

        A method's own losses are outputs, too.
        """
        # a mask's edge is where a logit's sign changes, and thresholds are 1/254 apart: no room for half precision
        with torch.autocast(next(iter(tokens.values())).codes.device.type, enabled=False):
            given = self._meta_tokens(tokens)
            frames = tokens[self.stages[0].name].codes.shape[:2]
            maps = self.fpn.maps(self._maps(tokens, given))
            sounds: list[Tensor] = []
            if self.tpavi is not None:
                maps, sounds = self.tpavi(maps, tokens)
            elif self.sound is not None and given.audio is not None:
                sounds = [linear(given.audio.mean(-2)).flatten(0, 1) for linear in self.sound]
            logits = self.fpn.decode(maps)
            outputs = {"logits": logits.unflatten(0, frames)}
            if self.matching:
                outputs["matching"] = matching_divergence(logits, maps, sounds).unflatten(0, frames)
        return {**outputs, **auxiliary_outputs(given.losses)}

    def _meta_tokens(self, tokens: Mapping[str, LayerTokens]) -> _Given:
        if self.method is not None:
            found: MetaTokens = self.method.separate(tokens)
            return _Given(found.visual, found.audio, found.losses)
        heard = self.audio(tokens) if self.audio is not None else None
        return _Given(self.visual(tokens) if self.visual is not None else None, heard)

    def _maps(self, tokens: Mapping[str, LayerTokens], given: _Given) -> Sequence[InjectedTokens | MixedTokens]:
        """The stages, ``[B T, N, D]`` each, with what was injected, or as sums of their layers."""
        if self.mix is not None:
            read = (layer.name for stage in self.mix.stages for layer in stage)
            mixed: list[MixedTokens] = self.mix({name: tokens[name].flatten_frames() for name in read})
            return mixed
        frames = {stage.name: tokens[stage.name].flatten_frames() for stage in self.stages}
        if self.mti is None:
            return [InjectedTokens(stage) for stage in frames.values()]
        meta_tokens = {
            name: None if tensor is None else tensor.flatten(0, 1)
            for name, tensor in (("visual", given.visual), ("audio", given.audio))
        }
        updated: list[InjectedTokens] = self.mti(frames, **meta_tokens)
        return updated


@dataclass(frozen=True)
class _Given:
    """Meta-tokens ``[B, T, K, d]``, None where nothing is to be injected, and the method's own losses."""

    visual: Tensor | None
    audio: Tensor | None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


def without_mti(method: MethodChoice, options: AvsHeadOptions) -> AvsHeadOptions:
    """The options, with ``mti`` switched off for methods that give no meta-tokens.

    Raises
    ------
    OptionsError
        They ask for a matching term, for which nothing is left that hears.
    """
    return replace(options, mti=False) if options.mti and FEEDS[method.name] in ("stages", "mixed") else options


def mixed_layers(offered: Sequence[LayerSpec], levels: Sequence[LayerSpec]) -> tuple[tuple[LayerSpec, ...], ...]:
    """The visual layers of each level that a weighted sum is made of."""
    blocks = [layer for layer in offered if layer.block]
    return stage_layers([layer for layer in blocks if layer.modality == "visual"], levels)


class LevelTokens(nn.Module):
    """Meta-tokens ``[B, T, K, d]`` of one modality's layers; those of another width get a linear to d."""

    def __init__(self, layers: Sequence[LayerSpec], dim: int, method: MethodChoice, options: AvsHeadOptions) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.sources = nn.ModuleList(_source(layer, dim, method, options) for layer in layers)
        self.aligns = nn.ModuleList(
            nn.Identity() if method.name == "linear" or layer.width == dim else nn.Linear(layer.width, dim)
            for layer in layers
        )

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """From tokens ``[B, T, N, D]`` by layer name."""
        aligned = []
        for layer, source, align in zip(self.layers, self.sources, self.aligns, strict=True):
            stored = tokens[layer.name]
            meta_tokens = source(stored.flatten_frames()).unflatten(0, stored.codes.shape[:2])
            aligned.append(align(meta_tokens))
        return torch.cat(aligned, -2)


class ProbedToken(nn.Module):
    """Linear probing's one meta-token, the mean of the projected tokens (Table 5).

    A layer of another width than ``dim`` has no identity to start from.
    """

    def __init__(self, layer: LayerSpec, dim: int, options: LinearOptions) -> None:
        super().__init__()
        square = layer.width == dim
        options = replace(options, dim="none" if square else dim, init=options.init if square else "default")
        self.probe = LinearProbe([layer], options)

    def forward(self, tokens: LayerTokens) -> Tensor:
        """``[F, 1, d]`` of a layer's tokens ``[F, N, D]``."""
        meta_tokens: Tensor = self.probe({self.probe.layer.name: tokens}).unsqueeze(-2)
        return meta_tokens


class SoundOverTime(nn.Module):
    """TPAVI at every level, all with one audio vector a frame: the mean token through a linear."""

    def __init__(self, layer: LayerSpec, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.linear = nn.Linear(layer.width, AUDIO_WIDTH)
        self.levels = nn.ModuleList(TPAVI(width) for _ in LEVELS)

    def forward(self, maps: Sequence[Tensor], tokens: Mapping[str, LayerTokens]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps ``[B T, C, s, s]`` to maps of that shape, and to audio ``[B T, C]`` of each level."""
        audio = self.linear(mean_token(tokens[self.layer.name], self.linear.weight.dtype))
        pairs = [level(m.unflatten(0, audio.shape[:2]), audio) for level, m in zip(self.levels, maps, strict=True)]
        return [seen.flatten(0, 1) for seen, _ in pairs], [heard.flatten(0, 1) for _, heard in pairs]


def _source(layer: LayerSpec, dim: int, method: MethodChoice, options: AvsHeadOptions) -> nn.Module:
    """What gives one layer's meta-tokens."""
    if method.name == "linear":
        return ProbedToken(layer, dim, cast(LinearOptions, method.options))
    lcd = cast(LCDOptions, method.options)
    count = lcd.meta_tokens(layer.modality)
    if not isinstance(count, int):
        raise UsageError("segmentation has one number of meta-tokens a modality", hint="set lcd.k_visual to one number")
    return LayerDistiller(layer, count, lcd.steps(layer.modality), lcd, matrices=options)


def _common_width(last: LayerSpec, method: MethodChoice) -> int:
    """d, by default that of the last visual level (docs/protocols/avs.md, "Open choices", 3)."""
    dim = cast(LCDOptions | LinearOptions, method.options).dim
    return last.width if isinstance(dim, str) else dim
