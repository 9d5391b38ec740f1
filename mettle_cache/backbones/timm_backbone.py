"""Backbones from timm: the three published visual ones, and any Swin, ViT or feature-pyramid CNN by its timm name.

Notation for shapes: B segments, T segments of a clip, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import timm
import torch
import torchaudio
from torch import Tensor, nn

from mettle_cache.backbones.front_ends import (
    INTERPOLATIONS,
    SAMPLE_RATE,
    SWIN_FBANK,
    VIT_FBANK,
    FbankImage,
    ImageTransform,
)
from mettle_cache.backbones.hub import fetch_pretrained
from mettle_cache.backbones.late_block import late_bundle
from mettle_cache.backbones.protocol import Backbone, BackboneRequest
from mettle_cache.backbones.timm_network import (
    build_from_file,
    build_meta,
    build_random,
    find_taps,
    patch_size,
    pretrained_cfg,
    read_any_grid,
    trace_layers,
)
from mettle_cache.backbones.trunk import FrozenTrunk, check_batch, release
from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import LateBundle
from mettle_cache.layers import LayerSpec
from mettle_cache.preprocessing import Recording


@dataclass(eq=False, kw_only=True)
class TimmBackbone:
    """Implements :class:`~mettle_cache.backbones.protocol.Backbone`; make one with ``create_backbone``.

    Attributes
    ----------
    front
        Media to pictures: of frames for the visual modality, of a waveform in the shared mode.
    run
        The trunk's forward where it is not ``forward_features``.
    seed
        Of random weights; None for weights that were loaded.
    final_norm
        Whether the last block's tokens are taken after the network's final norm.
    audio_view
        Makes the shared mode's backbone from this visual one, around the same trunk.
    """

    name: str
    timm_name: str
    modality: str
    layers: tuple[LayerSpec, ...]
    trunk: FrozenTrunk
    front: ImageTransform | FbankImage
    run: Callable[[Tensor], object] | None
    frozen_parameters: int
    weights_source: str
    seed: int | None
    final_norm: bool
    audio_view: Callable[[TimmBackbone], TimmBackbone]

    @property
    def segment_shape(self) -> tuple[int, ...]:
        return self.front.shape

    @property
    def sample_rate(self) -> int | None:
        return SAMPLE_RATE if isinstance(self.front, FbankImage) else None

    @property
    def hears_files(self) -> bool:
        return isinstance(self.front, FbankImage) and self.front.file_sound

    def preprocess(self, media: Sequence[np.ndarray] | np.ndarray | Recording, segments: int) -> Tensor:
        """T pictures [H, W, 3] uint8, a 16 kHz waveform [samples] or a recording, to [T, 3, H, W] float32.

        Raises
        ------
        MediaError
            Media that are not what is said above.
        """
        front: Callable[..., Tensor] = self.front
        return front(media, segments)

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the [B, N, D] tokens of every block, by layer name.

        Raises
        ------
        UsageError
            Another shape or dtype than :meth:`preprocess` gives.
        """
        check_batch(self.name, x, [self.segment_shape])
        tokens = self.trunk(x.to(self.trunk.device, non_blocking=True), self.run)
        return {layer.name: token for layer, token in zip(self.layers, tokens, strict=True)}

    def to(self, device: torch.device | str) -> TimmBackbone:
        """Move the weights (of both modalities in the shared mode: they are the same); returns the backbone itself."""
        self.trunk.to(device)
        return self

    def at_precision(self, precision: str) -> TimmBackbone:
        """A backbone of the same weights in another precision."""
        return replace(self, trunk=self.trunk.at(precision))

    def shared_audio(self) -> TimmBackbone:
        """The same trunk behind the audio front end."""
        return self.audio_view(self)

    def late_bundle(self) -> LateBundle:
        """The last block and the final norm, to be replayed from the tokens of the block before.

        Raises
        ------
        UsageError
            There is no such block; says why.
        """
        network = self.trunk.network
        block = find_taps(network, self.name).modules[-1]
        return late_bundle(block, getattr(network, "norm", None), self.layers, self.name)

    def fingerprint(self) -> dict[str, object]:
        kind: dict[str, object] = {"kind": "pretrained"} if self.seed is None else {"kind": "random", "seed": self.seed}
        versions = {"timm": timm.__version__, "torch": release(torch.__version__)}
        if isinstance(self.front, FbankImage):
            versions["torchaudio"] = release(torchaudio.__version__)
        return {
            "architecture": self.timm_name,
            "modality": self.modality,
            "layers": [layer.to_json() for layer in self.layers],
            "weights": {**kind, "digest": self.trunk.digest},
            "preprocessing": self.front.to_json(),
            "final_norm": self.final_norm,
            "positions": "trained grid" if self.run is None else "linear along the token axis",
            "precision": self.trunk.precision,
            "versions": versions,
        }


# the peers normalise by these whatever the checkpoint was trained with (docs/protocols/avel.md, "Pictures")
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
        layers = _trace(self, request, "visual")
        network, source = self._network(request)
        taps = find_taps(
            network, request.label, final_norm=request.preprocessing.final_norm, embedding=request.embedding
        )
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
        return _trace(self, request, request.modality or "visual")

    def frozen_parameters(self) -> int:
        return _count_frozen(self.timm_name)

    def side(self, request: BackboneRequest) -> int:
        """Pixels of a side of the pictures that it reads."""
        return request.size or self.size or int(pretrained_cfg(self.timm_name)["input_size"][-1])

    def _network(self, request: BackboneRequest) -> tuple[nn.Module, str]:
        side = self.side(request)
        if request.weights == "random":
            return build_random(self.timm_name, side, request.seed), f"random, seed {request.seed}"
        if request.weights != "pretrained":
            return build_from_file(self.timm_name, side, Path(request.weights))
        cfg = pretrained_cfg(self.timm_name)
        option = "--audio" if request.modality == "audio" else "--visual"
        path = fetch_pretrained(request.label, cfg.get("hf_hub_id"), cfg.get("hf_hub_filename"), option)
        network, _ = build_from_file(self.timm_name, side, path)
        return network, f"hub {cfg['hf_hub_id']}"

    def _pictures(self, request: BackboneRequest) -> ImageTransform:
        cfg, side = pretrained_cfg(self.timm_name), self.side(request)
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

    def sound(self, request: BackboneRequest) -> FbankImage:
        """The picture of sound that it reads in the shared mode."""
        side = self.side(request)
        picture = self.fbank or replace(SWIN_FBANK, size=(side, side))
        ways = request.preprocessing
        own = {} if ways.fbank is None else asdict(ways.fbank)
        return replace(picture, **own, file_sound=ways.file_sound)

    def runner(self, network: nn.Module) -> Callable[[Tensor], Tensor] | None:
        """How its own picture of sound runs through the network; None: as any picture does."""
        return read_any_grid(network) if self.fbank is not None else None

    def _hear(self, visual: TimmBackbone, request: BackboneRequest) -> TimmBackbone:
        return replace(
            visual,
            modality="audio",
            layers=_trace(self, request, "audio"),
            front=self.sound(request),
            run=self.runner(visual.trunk.network),
        )


# both are asked for several times while a backbone is made, and again by the next one of the same kind
@lru_cache(maxsize=64)
def _count_frozen(timm_name: str) -> int:
    network = build_meta(timm_name, None, classifier=True)
    if find_taps(network, timm_name).layout == "NCHW":
        network = build_meta(timm_name, None)
    return sum(parameter.numel() for parameter in network.parameters())


@lru_cache(maxsize=64)
def _trace(family: TimmFamily, request: BackboneRequest, modality: str) -> tuple[LayerSpec, ...]:
    side = family.side(request)
    network = build_meta(family.timm_name, side)
    taps = find_taps(network, request.label, embedding=request.embedding)
    if any(side % patch for patch in patch_size(network)):
        patch = patch_size(network)[0]
        raise UsageError(
            f"backbone '{request.label}' cannot read {side} pixels: they are no multiple of its patch of {patch}",
            hint=f"use {request.name}@{side // patch * patch or patch}",
        )
    picture: tuple[int, ...] = (side, side)
    run = None
    if modality == "audio":
        picture, run = family.sound(request).shape[1:], family.runner(network)
    return trace_layers(network, taps, request.label, modality, (picture[0], picture[1]), run)


SWINV2_L = TimmFamily("swinv2_large_window12_192.ms_in22k", 192, as_peers=True)
VIT_L16 = TimmFamily("vit_large_patch16_224.augreg_in21k", 224, as_peers=True, fbank=VIT_FBANK)
# tv_in1k is what timm 0.6.12, pinned by the peers, called resnext101_32x8d
RESNEXT101 = TimmFamily("resnext101_32x8d.tv_in1k", 192)
