"""The paper's backbones: their layers and sizes are written down, so that nothing is loaded to tell or plan by them.

What runs is behind them, in the module that each names; tests compare these tables with those that it computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from mettle_cache.backbones.hub import find_cached
from mettle_cache.backbones.protocol import Backbone, BackboneInfo, BackboneRequest, Builder
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.paths import local_path

CHECKPOINTS = "HTSAT_AudioSet_Saved_*.ckpt"
WEIGHTS_FOLDER = "METTLE_WEIGHTS"


@dataclass(frozen=True)
class Stage:
    """Blocks of one size: their token grid (rows, columns), width D, and tokens beside the grid (class tokens)."""

    blocks: int
    grid: tuple[int, int]
    width: int
    more_tokens: int = 0


def find_checkpoint() -> Path | None:
    """HTS-AT's checkpoint in ``weights/`` of the working directory, else where ``METTLE_WEIGHTS`` points.

    Raises
    ------
    UsageError
        It points nowhere on this machine.
    """
    folders = [Path("weights")]
    if named := os.environ.get(WEIGHTS_FOLDER):
        try:
            folders.append(local_path(named))
        except UsageError as error:
            raise UsageError(f"{WEIGHTS_FOLDER}: {error.message}", hint=error.hint) from error
    return next((path for folder in folders for path in sorted(folder.glob(CHECKPOINTS))), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedFamily:
    """One backbone of the paper, at its published size; implements :class:`~mettle_cache.backbones.protocol.Family`.

    Attributes
    ----------
    implementation
        ``module:attribute`` of what builds it, imported only to build it or for another size.
    parameters
        Of the frozen model as the papers count them (docs/protocols/avel.md, "Parameter accounting").
    stages
        By modality, the backbone's own first.
    weights, find_weights
        Where they come from, and the file if it is here already.
    embeds
        Whether it has a patch embedding.
    """

    name: str
    implementation: str
    summary: str
    parameters: int
    stages: Mapping[str, tuple[Stage, ...]]
    weights: str
    find_weights: Callable[[], Path | None]
    embeds: bool = True

    def create(self, request: BackboneRequest) -> Backbone:
        return self.builder.create(request)

    def layers(self, request: BackboneRequest) -> tuple[LayerSpec, ...]:
        modality = request.modality or next(iter(self.stages))
        self.check_modality(modality)
        if request.size is not None:
            return self.builder.layers(request)
        first = 0 if request.embedding and self.embeds else 1
        return tuple(
            LayerSpec(
                modality=modality,
                stage=number,
                block=block,
                grid=stage.grid,
                tokens=stage.grid[0] * stage.grid[1] + stage.more_tokens,
                width=stage.width,
            )
            for number, stage in enumerate(self.stages[modality], 1)
            for block in range(first if number == 1 else 1, stage.blocks + 1)
        )

    def check_modality(self, modality: str | None) -> None:
        """Refuse a modality that the backbone does not read; None is its own. Raises UsageError."""
        if modality == "visual" and modality not in self.stages:
            raise UsageError(f"backbone '{self.name}' reads sound, not pictures", hint=f"use it as --audio {self.name}")

    def frozen_parameters(self) -> int:
        return self.parameters

    def info(self) -> BackboneInfo:
        file = self.find_weights()
        return BackboneInfo(
            name=self.name,
            modalities=tuple(self.stages),
            summary=self.summary,
            layers=self.layers(BackboneRequest(name=self.name)),
            frozen_parameters=self.parameters,
            weights=self.weights,
            weights_found=str(file) if file else None,
        )

    @property
    def builder(self) -> Builder:
        """What stands behind it; loads torch and timm."""
        module, _, attribute = self.implementation.partition(":")
        builder: Builder = getattr(import_module(module), attribute)
        return builder


def _from_timm(
    name: str,
    constant: str,
    repository: str,
    summary: str,
    parameters: int,
    *,
    visual: tuple[Stage, ...],
    audio: tuple[Stage, ...],
    embeds: bool = True,
) -> PublishedFamily:
    return PublishedFamily(
        name=name,
        implementation=f"mettle_cache.backbones.timm_backbone:{constant}",
        summary=summary,
        parameters=parameters,
        stages={"visual": visual, "audio": audio},
        weights=f"hub: {repository}",
        find_weights=partial(find_cached, repository, None),
        embeds=embeds,
    )


_SWIN = (Stage(2, (48, 48), 192), Stage(2, (24, 24), 384), Stage(18, (12, 12), 768), Stage(2, (6, 6), 1536))
_RESNEXT = (Stage(1, (48, 48), 256), Stage(1, (24, 24), 512), Stage(1, (12, 12), 1024), Stage(1, (6, 6), 2048))

SWINV2_L = _from_timm(
    "swinv2_l",
    "SWINV2_L",
    "timm/swinv2_large_window12_192.ms_in22k",
    "Swin-V2-L at 192, the paper's main backbone",
    228_772_549,
    visual=_SWIN,
    audio=_SWIN,
)
VIT_L16 = _from_timm(
    "vit_l16",
    "VIT_L16",
    "timm/vit_large_patch16_224.augreg_in21k",
    "ViT-L/16 at 224",
    325_690_707,
    visual=(Stage(24, (14, 14), 1024, more_tokens=1),),
    audio=(Stage(24, (6, 8), 1024, more_tokens=1),),
)
RESNEXT101 = _from_timm(
    "resnext101",
    "RESNEXT101",
    "timm/resnext101_32x8d.tv_in1k",
    "ResNeXt101-32x8d at 192, four stage maps",
    86_742_336,
    visual=_RESNEXT,
    audio=_RESNEXT,
    embeds=False,
)
HTSAT = PublishedFamily(
    name="htsat",
    implementation="mettle_cache.backbones.htsat:HTSAT",
    summary="HTS-AT trained on AudioSet, 32 kHz",
    parameters=31_325_143,
    stages={"audio": (Stage(2, (64, 64), 96), Stage(2, (32, 32), 192), Stage(6, (16, 16), 384), Stage(2, (8, 8), 768))},
    weights=f"file: {CHECKPOINTS} in weights/ or in the folder that {WEIGHTS_FOLDER} names",
    find_weights=find_checkpoint,
)
