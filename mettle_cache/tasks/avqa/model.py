"""Meta-tokens of the last layers, injected into the last visual one, and the question answering head on both.

Shapes: B samples, T seconds, N positions, K meta-tokens, d_a and d_v their widths, D of the pictures. The paper has no
such model; this is the reading that docs/protocols/avqa.md, "Where meta-tokens enter", gives reasons for: the sound's
meta-tokens, on average, are what is heard, and the pictures are the last layer's tokens after equation 3.4.

A method of both modalities gives its meta-tokens together: those of other videos' pictures are made with the sound that
these do not belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mettle_cache.decoders.avqa import AVQADecoder
from mettle_cache.decoders.avqa_grounding import Pictures, inject_vectors
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import LCD
from mettle_cache.methods.mti import SoftmaxOver
from mettle_cache.methods.protocol import MetaTokens, Method, PerModality
from mettle_cache.tasks.protocol import auxiliary_outputs
from mettle_cache.tokens import LayerTokens


class AvqaModel(nn.Module):
    """The ``method`` gives the meta-tokens, ``layer`` is what the decoder sees.

    ``raw_negatives`` leaves the pictures of other videos as the backbone gives them, as the published heads do: then
    the match can be told from the injection alone. Otherwise they take the same injection, from the sound that they do
    not belong to and from their own pictures. Without ``injects`` all pictures are as the backbone gives them, and the
    method is only heard.
    """

    def __init__(
        self,
        method: Method,
        decoder: AVQADecoder,
        layer: LayerSpec,
        *,
        softmax_over: SoftmaxOver,
        raw_negatives: bool,
        injects: bool = True,
    ) -> None:
        super().__init__()
        self.method: Method | None = None
        self.counts: dict[str, int] = {}
        if isinstance(method, PerModality):
            # under the names that checkpoints had before there were methods of both modalities
            self.visual, self.audio = method.visual, method.audio
            self.counts = {"visual": count_meta_tokens(method.visual), "audio": count_meta_tokens(method.audio)}
        else:
            self.method = method
        self.decoder = decoder
        self.layer = layer
        # of other videos' tokens only these are read
        self.seen = {layer.name, *(read.name for read in method.layers if read.modality == "visual")}
        self.softmax_over = softmax_over
        self.raw_negatives = raw_negatives
        self.injects = injects
        if injects:
            same = method.visual_dim == layer.width
            self.cross = nn.Linear(method.audio_dim, layer.width)
            self.intra = nn.Identity() if same else nn.Linear(method.visual_dim, layer.width)

    @property
    def kept_whole(self) -> dict[str, str]:
        """The LCDs that do not fold for this head, by their place, and why."""
        return {
            modality: f"this head uses each of its K = {count} meta-tokens, and a folded LCD gives their mean alone"
            for modality, count in self.counts.items()
            if count > 1
        }

    def forward(
        self,
        tokens: Mapping[str, LayerTokens],
        question: Tensor,
        negative_clip: Tensor | None = None,
        negative_second: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Tokens ``[B + R, T, N, D]`` by layer name, of B samples and R further videos, to the head's outputs.

        ``question`` holds word indexes ``[B, L]``; ``negative_clip`` and ``negative_second`` ``[B, T]`` say where the
        pictures of other videos are among the tokens.
        """
        positive = {name: layer[: len(question)] for name, layer in tokens.items()}
        given = self._meta_tokens(positive)
        pictures = [self._pictures(positive, given.visual, given.audio)]
        if negative_clip is not None and negative_second is not None:
            negative = {name: take_seconds(tokens[name], negative_clip, negative_second) for name in self.seen}
            own = None if self.raw_negatives else self._visual_meta_tokens(negative, positive)
            pictures.append(self._pictures(negative, own, given.audio))
        with torch.autocast(question.device.type, enabled=False):
            heard = given.audio.to(self._precision).mean(dim=-2)
            outputs: dict[str, Tensor] = self.decoder(heard, pictures[0], question, *pictures[1:])
        return {**outputs, **auxiliary_outputs(given.losses)}

    @property
    def _precision(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def _meta_tokens(self, tokens: Mapping[str, LayerTokens]) -> _Given:
        """Of pictures with their own sound."""
        if self.method is not None:
            found: MetaTokens = self.method.separate(tokens)
            return _Given(found.visual if self.injects else None, found.audio, found.losses)
        return _Given(self._visual_meta_tokens(tokens, tokens), self._distil("audio", tokens))

    def _visual_meta_tokens(
        self, pictures: Mapping[str, LayerTokens], sound: Mapping[str, LayerTokens]
    ) -> Tensor | None:
        """``[B, T, K, d]`` of pictures with any sound; None where nothing is injected into pictures."""
        if not self.injects:
            return None
        if self.method is not None:
            return self.method.separate({**sound, **pictures}).visual
        return self._distil("visual", pictures)

    def _distil(self, modality: str, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """Meta-tokens ``[B, T, K, d]`` of a method that treats the modalities apart."""
        method = self.visual if modality == "visual" else self.audio
        if self.counts[modality] == 1:
            meta_token: Tensor = method(tokens).unsqueeze(-2)
            return meta_token
        if not isinstance(method, LCD):
            raise UsageError(
                f"an LCD with K = {self.counts[modality]} cannot be folded for this head: it uses each meta-token",
                hint="use the run's best.safetensors as it is, or train with lcd.k_visual = 1 and lcd.k_audio = 1",
            )
        return method.separate(tokens)

    def _pictures(self, tokens: Mapping[str, LayerTokens], visual: Tensor | None, audio: Tensor) -> Pictures:
        """Equation 3.4 at the last layer, first with the sound's meta-tokens, then with the picture's own.

        The layer as it is, where there are none of the picture's own.
        """
        pictures = Pictures.of(tokens[self.layer.name].floats(self._precision))
        if visual is None:
            return pictures
        with torch.autocast(visual.device.type, enabled=False):
            for linear, meta_tokens in ((self.cross, audio), (self.intra, visual)):
                vectors = linear(meta_tokens.to(self._precision))
                pictures = inject_vectors(pictures, vectors, softmax_over=self.softmax_over)
        return pictures


@dataclass(frozen=True)
class _Given:
    """Meta-tokens ``[B, T, K, d]``, none of the pictures where nothing is injected, and the method's own losses."""

    visual: Tensor | None
    audio: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


def count_meta_tokens(method: nn.Module) -> int:
    """K of an LCD of one layer, whose meta-tokens are used one by one; 1 of whatever gives their mean."""
    return method.count if isinstance(method, LCD) and len(method.layers) == 1 else 1


def take_seconds(tokens: LayerTokens, clips: Tensor, seconds: Tensor) -> LayerTokens:
    """Of tokens ``[C, T, N, *]`` those of chosen clips and seconds, ``[B, T]`` each: ``[B, T, N, *]``."""
    return tokens.flatten_frames()[clips * tokens.codes.shape[1] + seconds]


def last_layers(layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The last layer of each modality, visual first; a modality without layers is left out."""
    last = {layer.modality: layer for layer in layers}
    return tuple(last[modality] for modality in ("visual", "audio") if modality in last)
