"""Backbones from timm: the three published visual ones, and any Swin, ViT or feature-pyramid CNN by its timm name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import timm
from torch import Tensor, nn

from mettle_cache.backbones.fbank import SWIN_FBANK, VIT_FBANK, FbankImage
from mettle_cache.backbones.hub import fetch_pretrained
from mettle_cache.backbones.images import INTERPOLATIONS, ImageTransform
from mettle_cache.backbones.protocol import Backbone, BackboneRequest
from mettle_cache.backbones.timm_backbone import TimmBackbone
from mettle_cache.backbones.timm_model import build_from_file, build_meta, build_random, pretrained_cfg
from mettle_cache.backbones.timm_taps import find_taps, patch_size, trace_layers
from mettle_cache.backbones.trunk import FrozenTrunk
from mettle_cache.backbones.vit_audio import read_any_grid
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec

# the peers normalise by these whatever the checkpoint was trained with (spec-avel.md section 2.1)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TimmFamily:
    """One timm architecture.

    Attributes
    ----------
    timm_name
        With its pretrained tag where the choice of weights matters.
    size
        Side of the square input; None for the one in timm's ``pretrained_cfg``.
    as_peers
        Resize bicubically and normalise by ImageNet's mean and std; else all by ``pretrained_cfg``.
    fbank
        The shared mode's own picture, read whatever its shape. A backbone without one reads Swin's picture, resized
        bilinearly to the backbone's input (at 192 pixels that is LAVISH's, untouched).
    """

    timm_name: str
    size: int | None = None
    as_peers: bool = False
    fbank: FbankImage | None = None

    @staticmethod
    def knows(name: str) -> bool:
        """Whether timm has an architecture of this name, and of this pretrained tag if it has one."""
        architecture, _, tag = name.partition(".")
        return timm.is_model(architecture) and (not tag or name in timm.list_pretrained(architecture))

    def create(self, request: BackboneRequest) -> Backbone:
        if request.exact_dft:
            raise UsageError(f"exact_dft is for htsat; '{request.label}' has no such front end")
        layers = self._trace(request, "visual")
        network, source = self._network(request)
        taps = find_taps(network, request.label, final_norm=request.preprocessing.final_norm)
        visual = TimmBackbone(
            name=request.label,
            timm_name=self.timm_name,
            modality="visual",
            layers=layers,
            trunk=FrozenTrunk(network, taps.modules, taps.layout, request.precision),
            front=self._pictures(request),
            run=None,
            frozen_parameters=self.frozen_parameters(),
            weights_source=source,
            seed=request.seed if request.weights == "random" else None,
            final_norm=request.preprocessing.final_norm,
            audio_view=lambda visual: self._hear(visual, request),
        )
        return visual.shared_audio() if request.modality == "audio" else visual

    def layers(self, request: BackboneRequest) -> tuple[LayerSpec, ...]:
        return self._trace(request, request.modality or "visual")

    def frozen_parameters(self) -> int:
        network = build_meta(self.timm_name, None, classifier=True)
        if find_taps(network, self.timm_name).layout == "NCHW":
            network = build_meta(self.timm_name, None)
        return sum(parameter.numel() for parameter in network.parameters())

    def _side(self, request: BackboneRequest) -> int:
        return request.size or self.size or int(pretrained_cfg(self.timm_name)["input_size"][-1])

    def _trace(self, request: BackboneRequest, modality: str) -> tuple[LayerSpec, ...]:
        side = self._side(request)
        network = build_meta(self.timm_name, side)
        taps = find_taps(network, request.label)
        if any(side % patch for patch in patch_size(network)):
            patch = patch_size(network)[0]
            raise UsageError(
                f"backbone '{request.label}' cannot read {side} pixels: they are no multiple of its patch of {patch}",
                hint=f"use {request.name}@{side // patch * patch or patch}",
            )
        picture: tuple[int, ...] = (side, side)
        run = None
        if modality == "audio":
            picture, run = self._sound(request).shape[1:], self._runner(network)
        return trace_layers(network, taps, request.label, modality, (picture[0], picture[1]), run)

    def _network(self, request: BackboneRequest) -> tuple[nn.Module, str]:
        side = self._side(request)
        if request.weights == "random":
            return build_random(self.timm_name, side, request.seed), f"random, seed {request.seed}"
        if request.weights != "pretrained":
            return build_from_file(self.timm_name, side, Path(request.weights)), f"file {request.weights}"
        cfg = pretrained_cfg(self.timm_name)
        option = "--audio" if request.modality == "audio" else "--visual"
        path = fetch_pretrained(request.label, cfg.get("hf_hub_id"), cfg.get("hf_hub_filename"), option)
        return build_from_file(self.timm_name, side, path), f"hub {cfg['hf_hub_id']}"

    def _pictures(self, request: BackboneRequest) -> ImageTransform:
        cfg, side = pretrained_cfg(self.timm_name), self._side(request)
        interpolation = "bicubic" if self.as_peers else str(cfg["interpolation"])
        if interpolation not in INTERPOLATIONS:
            raise UsageError(f"backbone '{request.label}' wants '{interpolation}' resizing, which is not built here")
        return ImageTransform(
            size=(side, side),
            mean=IMAGENET_MEAN if self.as_peers else tuple(cfg["mean"]),
            std=IMAGENET_STD if self.as_peers else tuple(cfg["std"]),
            interpolation=interpolation,
            antialias=request.antialias,
        )

    def _sound(self, request: BackboneRequest) -> FbankImage:
        side = self._side(request)
        picture = self.fbank or replace(SWIN_FBANK, size=(side, side))
        return (
            picture if request.preprocessing.fbank is None else replace(picture, **asdict(request.preprocessing.fbank))
        )

    def _runner(self, network: nn.Module) -> Callable[[Tensor], Tensor] | None:
        return read_any_grid(network) if self.fbank is not None else None

    def _hear(self, visual: TimmBackbone, request: BackboneRequest) -> TimmBackbone:
        return replace(
            visual,
            modality="audio",
            layers=self._trace(request, "audio"),
            front=self._sound(request),
            run=self._runner(visual.trunk.network),
        )


SWINV2_L = TimmFamily("swinv2_large_window12_192.ms_in22k", 192, as_peers=True)
VIT_L16 = TimmFamily("vit_large_patch16_224.augreg_in21k", 224, as_peers=True, fbank=VIT_FBANK)
# tv_in1k is what timm 0.6.12, pinned by the peers, called resnext101_32x8d
RESNEXT101 = TimmFamily("resnext101_32x8d.tv_in1k", 192)
