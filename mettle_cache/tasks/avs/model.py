"""The segmentation model: LCD on the last layers, MTI into the four stages, the pyramid decoder (spec-avs.md 4).

Shapes: B videos, T frames (seconds), N tokens, K meta-tokens of d channels, C channels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mettle_cache.decoders.fpn import FPN, LEVELS
from mettle_cache.decoders.matching import matching_divergence
from mettle_cache.decoders.tpavi import AUDIO_WIDTH, TPAVI
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.linear import LinearProbe, mean_token
from mettle_cache.methods.mti import MTI, decode_stages
from mettle_cache.methods.plain_distiller import PlainDistiller
from mettle_cache.tasks.avs.options import AvsHeadOptions
from mettle_cache.tasks.options import MethodOptions
from mettle_cache.tokens import LayerTokens


class SegmentationModel(nn.Module):
    """Stored tokens of a video's frames to the logits of their masks.

    ``visual`` and ``audio`` are the levels of each modality, fine to coarse; of audio there may be the last ones only.
    """

    def __init__(
        self, visual: Sequence[LayerSpec], audio: Sequence[LayerSpec], method: MethodOptions, options: AvsHeadOptions
    ) -> None:
        super().__init__()
        self.stages = tuple(visual)
        self.fpn = FPN(visual, lateral=options.lateral, width=options.width)
        dim = _common_width(visual[-1], method)
        # counted from the last, which both modalities have
        read = [level - len(LEVELS) - 1 for level in options.lcd_levels]
        self.visual = self.audio = None
        if options.mti and options.intra:
            self.visual = MetaTokens([visual[level] for level in read], dim, method, options)
        if options.mti and options.cross:
            self.audio = MetaTokens([audio[level] for level in read], dim, method, options)
        self.mti = _build_mti(visual, dim, options) if options.mti else None
        self.tpavi = SoundOverTime(audio[-1], options.width) if options.tpavi else None
        self.matching = options.matching == "kl"
        self.sound = (
            nn.ModuleList(nn.Linear(dim, options.width) for _ in visual)
            if self.matching and not options.tpavi
            else None
        )

    def forward(self, tokens: Mapping[str, LayerTokens]) -> dict[str, Tensor]:
        """Tokens ``[B, T, N, D]`` by layer name to ``logits [B, T, 224, 224]``; with matching, ``matching [B, T]``."""
        # a mask's edge is where a logit's sign changes, and thresholds are 1/254 apart: no room for half precision
        with torch.autocast(next(iter(tokens.values())).codes.device.type, enabled=False):
            heard = self.audio(tokens) if self.audio is not None else None
            features = self._inject(tokens, heard)
            frames = features[0].shape[:2]
            maps = self.fpn.maps([stage.flatten(0, 1) for stage in features])
            sounds: list[Tensor] = []
            if self.tpavi is not None:
                maps, sounds = self.tpavi(maps, tokens)
            elif self.sound is not None and heard is not None:
                sounds = [linear(heard.mean(-2)).flatten(0, 1) for linear in self.sound]
            logits = self.fpn.decode(maps)
            outputs = {"logits": logits.unflatten(0, frames)}
            if self.matching:
                outputs["matching"] = matching_divergence(logits, maps, sounds).unflatten(0, frames)
        return outputs

    def _inject(self, tokens: Mapping[str, LayerTokens], heard: Tensor | None) -> list[Tensor]:
        if self.mti is None:
            return decode_stages(self.stages, tokens, self.fpn.output.conv3.weight.dtype)
        updated: list[Tensor] = self.mti(
            tokens, visual=self.visual(tokens) if self.visual is not None else None, audio=heard
        )
        return updated


class MetaTokens(nn.Module):
    """Meta-tokens ``[B, T, K, d]`` of one modality's layers; one of another width gets a linear to d."""

    def __init__(self, layers: Sequence[LayerSpec], dim: int, method: MethodOptions, options: AvsHeadOptions) -> None:
        super().__init__()
        self.sources = nn.ModuleList(_source(layer, dim, method, options) for layer in layers)
        self.aligns = nn.ModuleList(
            nn.Identity() if method.name == "linear" or layer.width == dim else nn.Linear(layer.width, dim)
            for layer in layers
        )

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        return torch.cat([align(source(tokens)) for source, align in zip(self.sources, self.aligns, strict=True)], -2)


class ProbedToken(nn.Module):
    """Linear probing's one meta-token, the mean of the projected tokens: ``[B, T, 1, d]`` (Table 5)."""

    def __init__(self, layer: LayerSpec, dim: int) -> None:
        super().__init__()
        self.probe = LinearProbe([layer], dim=dim)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        meta_tokens: Tensor = self.probe(tokens).unsqueeze(-2)
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


def _build_mti(stages: Sequence[LayerSpec], dim: int, options: AvsHeadOptions) -> MTI:
    return MTI(
        stages,
        dim,
        cross=options.cross,
        intra=options.intra,
        order=options.order,
        inject_into=options.inject_into,
        softmax_over=options.softmax_over,
        identity=options.identity,
    )


def _source(layer: LayerSpec, dim: int, method: MethodOptions, options: AvsHeadOptions) -> nn.Module:
    if method.name == "linear":
        return ProbedToken(layer, dim)
    lcd = method.lcd
    wanted = lcd.k_visual if layer.modality == "visual" else lcd.k_audio
    if not isinstance(wanted, int):
        raise UsageError("segmentation has one number of meta-tokens a modality", hint="set lcd.k_visual to one number")
    if lcd.norm or lcd.residual or lcd.attention != "absorbed":
        raise UsageError(
            "segmentation's LCD is that of equations 3.1 and 3.2, without norm, residual or stock attention",
            hint="set lcd.norm = false, lcd.residual = false and lcd.attention = absorbed",
        )
    return PlainDistiller(
        layer,
        meta_tokens=wanted,
        steps=lcd.steps_visual if layer.modality == "visual" else lcd.steps_audio,
        heads=lcd.heads,
        task_specific=lcd.task_specific,
        pretrained_branch=lcd.pretrained_branch,
        out_proj=options.out_proj,
        shared_steps=options.shared_steps,
    )


def _common_width(last: LayerSpec, method: MethodOptions) -> int:
    """d, by default that of the last visual level (spec-avs.md 9.2, question 3)."""
    dim = method.linear.dim if method.name == "linear" else method.lcd.dim
    return last.width if isinstance(dim, str) else dim
