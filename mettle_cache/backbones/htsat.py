"""The ``htsat`` backbone: HTS-AT, trained on AudioSet, for the modality-specific mode.

Source: docs/protocols/avel.md, "Sound for HTS-AT".

A segment is one second at 32 kHz, [32000]. The peers repeat each second ten times (five for AVSBench) and feed all of
it; so does :meth:`HtsatBackbone.forward_tokens`, on the device, so that nothing ten times too large is queued or moved.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
import torchaudio
from torch import Tensor

from mettle_cache.backbones import published
from mettle_cache.backbones.front_ends import check_waveform
from mettle_cache.backbones.htsat_checkpoint import load_htsat
from mettle_cache.backbones.htsat_frontend import dft_kernels
from mettle_cache.backbones.htsat_trunk import Htsat, HtsatSizes, original_parameters
from mettle_cache.backbones.late_block import late_bundle
from mettle_cache.backbones.protocol import Backbone, BackboneRequest
from mettle_cache.backbones.published import CHECKPOINTS, WEIGHTS_FOLDER, find_checkpoint
from mettle_cache.backbones.trunk import FrozenTrunk, build_seeded, check_batch, release
from mettle_cache.errors import UsageError, WeightsError
from mettle_cache.late_bundle import LateBundle
from mettle_cache.layers import LayerSpec


@dataclass(eq=False, kw_only=True)
class HtsatBackbone:
    """Implements :class:`~mettle_cache.backbones.protocol.Backbone`; make one with ``create_backbone("htsat")``.

    ``seed`` is that of random weights, None for weights that were loaded. ``repeats`` is how often a second is heard,
    ``spread`` whether T seconds of a longer recording are spread over it. ``embedding``: the patch embedding is the
    trunk's first tap.
    """

    trunk: FrozenTrunk
    sizes: HtsatSizes
    weights_source: str
    seed: int | None
    repeats: int
    spread: bool = False
    embedding: bool = False
    name: str = "htsat"
    modality: str = "audio"

    def __post_init__(self) -> None:
        self.layers = htsat_layers(self.sizes, embedding=self.embedding)
        self.sample_rate = self.sizes.mel.sample_rate
        self.segment_shape = (self.sample_rate,)
        self.frozen_parameters = original_parameters(self.sizes)

    def preprocess(self, media: Sequence[np.ndarray] | np.ndarray, segments: int) -> Tensor:
        """A mono float waveform [samples] at 32 kHz, cut or padded with zeros to T seconds, to [T, 32000] float32.

        Of a recording of S > T seconds they are the first T or, with ``spread``, seconds floor(linspace(1, S, T)) - 1,
        which are those of the pictures at one a second.

        Raises
        ------
        MediaError
            Not one channel of finite floats, or no sample at all.
        """
        samples = torch.from_numpy(check_waveform(np.asarray(media), shortest=1))
        seconds = max(segments, round(len(samples) / self.sample_rate)) if self.spread else segments
        length = seconds * self.sample_rate
        padded = torch.zeros(length)
        padded[: len(samples)] = samples[:length]
        chosen = [index * (seconds - 1) // max(segments - 1, 1) for index in range(segments)]
        return padded.view(seconds, self.sample_rate)[chosen]

    def forward_tokens(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 32000] (repeated here) or [B, repeats * 32000] (as it is) to every block's [B, N, D] tokens.

        Raises
        ------
        UsageError
            Another length or dtype.
        """
        tiled = self.repeats * self.sample_rate
        check_batch(self.name, x, [self.segment_shape, (tiled,)])
        x = x.to(self.trunk.device, non_blocking=True)
        tokens = self.trunk(x.repeat(1, tiled // x.shape[1]))
        return {layer.name: token for layer, token in zip(self.layers, tokens, strict=True)}

    def to(self, device: torch.device | str) -> HtsatBackbone:
        """Move the weights; returns the backbone itself."""
        self.trunk.to(device)
        return self

    def at_precision(self, precision: str) -> HtsatBackbone:
        """A backbone of the same weights in another precision."""
        return replace(self, trunk=self.trunk.at(precision))

    def late_bundle(self) -> LateBundle:
        """The last block and the final norm, to be replayed from the tokens of the block before."""
        network = self.trunk.network
        return late_bundle(network.blocks[-1], network.swin.norm, self.layers, self.name)

    def fingerprint(self) -> dict[str, object]:
        kind: dict[str, object] = {"kind": "pretrained"} if self.seed is None else {"kind": "random", "seed": self.seed}
        network = self.trunk.network
        return {
            "architecture": "htsat",
            "modality": self.modality,
            "layers": [layer.to_json() for layer in self.layers],
            "weights": {**kind, "digest": self.trunk.digest},
            "preprocessing": {
                "kind": "log-mel",
                **asdict(self.sizes.mel),
                "seconds_repeated": self.repeats,
                **({"seconds": "floor(linspace(1, S, T)) - 1"} if self.spread else {}),
                "exact_dft": network.logmel.exact,
            },
            "precision": self.trunk.precision,
            "versions": {
                "timm": timm.__version__,
                "torch": release(torch.__version__),
                "torchaudio": release(torchaudio.__version__),
            },
        }


def htsat_layers(sizes: HtsatSizes, *, embedding: bool = False) -> tuple[LayerSpec, ...]:
    """The layer table, with the patch embedding or without; it does not depend on the length of the sound."""
    return tuple(
        LayerSpec(modality="audio", stage=s + 1, block=b, grid=(side, side), tokens=side**2, width=sizes.width << s)
        for s, depth in enumerate(sizes.depths)
        for b in range(0 if embedding and not s else 1, depth + 1)
        if (side := sizes.image // sizes.patch >> s)
    )


class HtsatFamily:
    """The one model of this family; its sizes come from the checkpoint."""

    def create(self, request: BackboneRequest) -> Backbone:
        self._check(request)
        if request.antialias:
            raise UsageError("antialias is for pictures; 'htsat' reads none")
        if request.weights == "random":
            dft = dft_kernels(HtsatSizes().mel.n_fft) if request.exact_dft else None
            model, source = (
                build_seeded(lambda: Htsat(HtsatSizes(), dft=dft), request.seed),
                f"random, seed {request.seed}",
            )
        else:
            path = find_checkpoint() if request.weights == "pretrained" else Path(request.weights)
            if path is None:
                raise _no_checkpoint()
            model, source = load_htsat(path, exact_dft=request.exact_dft)
        taps = [model.swin.patch_embed, *model.blocks] if request.embedding else model.blocks
        return HtsatBackbone(
            trunk=FrozenTrunk(model, taps, "NHWC", request.precision),
            sizes=model.sizes,
            weights_source=source,
            seed=request.seed if request.weights == "random" else None,
            repeats=request.preprocessing.seconds_repeated,
            spread=request.preprocessing.spread_seconds,
            embedding=request.embedding,
        )

    def layers(self, request: BackboneRequest) -> tuple[LayerSpec, ...]:
        self._check(request)
        return htsat_layers(HtsatSizes(), embedding=request.embedding)

    def frozen_parameters(self) -> int:
        return original_parameters(HtsatSizes())

    def _check(self, request: BackboneRequest) -> None:
        published.HTSAT.check_modality(request.modality)
        if request.size is not None:
            raise UsageError("backbone 'htsat' has no picture size", hint="write htsat without '@'")


HTSAT = HtsatFamily()


def _no_checkpoint() -> WeightsError:
    folder = os.environ.get(WEIGHTS_FOLDER)
    return WeightsError(
        f"no {CHECKPOINTS} in {Path('weights').absolute()}"
        + (f" or in {folder} ({WEIGHTS_FOLDER})" if folder else f", and {WEIGHTS_FOLDER} is not set"),
        hint="put the published HTSAT_AudioSet_Saved_1.ckpt there, or give it: --audio htsat=FILE; "
        "or, to try things out, random weights: --audio htsat=random --seed N",
    )
