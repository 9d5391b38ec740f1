"""MoLT: a mixture of tokens that are distilled layer by layer from the late layers of both backbones.

Rho, Lee, Cho and Chung, arXiv 2512.00115. **This is a re-derivation**: its abstract, TL;DR and figure captions were at
hand, none of its equations, settings or results. What they say: frozen backbones; tokens taken in parallel from the
late layers only; for each layer a uni-modal and a cross-modal distillation adapter that make compact latent tokens; a
router over the two; a fusion module that gives the layer-wise tokens importance weights; a regulariser that keeps
latent tokens orthogonal; event localisation, segmentation and question answering. Everything that has a number or a
formula here is ours, after LAVisH and AVMoE, where such adapters are published (docs/methods.md, "MoLT"):
what adapters and router compute (:mod:`mettle_cache.methods.molt_adapters`), fusion and regulariser
(:mod:`mettle_cache.methods.molt_fusion`), K, r, the number of layers, and the weight of the regulariser.

Shapes: B clips, T segments, F frames (B T), N tokens, D channels of a layer, n layers of a modality, K latent tokens, d
output channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES, LayerSpec
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.methods.molt_adapters import Answers, LayerAdapters
from mettle_cache.methods.molt_fusion import Fusion, TokenFusion, orthogonality_loss
from mettle_cache.methods.protocol import MetaTokens, Method, MethodKind, layers_of
from mettle_cache.options import Options, Weight, Width
from mettle_cache.tokens import LayerTokens

LayerCount = Annotated[int, Field(ge=0, le=256)]
LatentTokens = Annotated[int, Field(ge=1, le=1024)]
Reduction = Annotated[int, Field(ge=1, le=256)]

# n, K and r
_PRESETS = {"official": (6, 4, 8), "tiny": (2, 2, 32)}


@dataclass(frozen=True, kw_only=True)
class MoLTOptions(Options):
    """The switches of the reading, and the sizes that its source does not tell.

    Attributes
    ----------
    dim
        d, the common width.
    preset
        ``official`` (late 6, k 4, reduction 8: ours, as nothing is published) or ``tiny`` (2, 2 and 32), for the keys
        that say ``preset``.
    late, early
        The last so many of the layers offered of each modality, or ``all``, and the first so many: the source claims
        that late layers are better than all, and all better than early ones.
    k
        K, the latent tokens of an adapter, and the tokens that a modality gives.
    reduction
        r: an adapter's bottleneck is D / r wide.
    router
        ``soft`` weighs both adapters, ``top1`` takes the one of the larger weight; ``uda_only``, ``cda_only`` and
        ``sum`` have no router.
    fusion
        Weights of the layers for each token, for each layer, or their plain ``mean``.
    orthogonality
        The regulariser's weight; 0 for none.
    orthogonal
        What is kept orthogonal: the layer-wise tokens of a segment at width d (``fused_dim``), or the latent
        parameters of each layer (``params``).
    scale
        Logits over ``sqrt`` of D; ``none`` as in LAVisH, where products of un-normalised wide tokens saturate.
    """

    dim: Width = 256
    preset: Literal["official", "tiny"] = "official"
    late: LayerCount | Literal["all", "preset"] = "preset"
    early: LayerCount = 0
    k: LatentTokens | Literal["preset"] = "preset"
    reduction: Reduction | Literal["preset"] = "preset"
    router: Literal["soft", "top1", "uda_only", "cda_only", "sum"] = "soft"
    fusion: Fusion = "per_token"
    orthogonality: Weight = 0.1
    orthogonal: Literal["fused_dim", "params"] = "fused_dim"
    scale: Literal["sqrt", "none"] = "sqrt"

    def problems(self) -> Sequence[str]:
        if self.late == 0 and not self.early:
            return ("late = 0 and early = 0 together leave no layer to read",)
        return ("late = 'all' leaves early nothing to add",) if self.late == "all" and self.early else ()

    @property
    def last(self) -> int | None:
        """How many of the last layers are read; None for all."""
        if isinstance(self.late, int):
            return self.late
        return None if self.late == "all" else _PRESETS[self.preset][0]

    @property
    def count(self) -> int:
        """K."""
        return self.k if isinstance(self.k, int) else _PRESETS[self.preset][1]

    @property
    def bottleneck(self) -> int:
        """r."""
        return self.reduction if isinstance(self.reduction, int) else _PRESETS[self.preset][2]

    @property
    def routes(self) -> bool:
        """Whether there is a router."""
        return self.router in ("soft", "top1")


class MoLT(Method):
    """Layer-wise tokens of both modalities, fused over the layers.

    Each layer is read twice in a forward pass, whatever asks it: once for the queries that depend on parameters alone,
    its own adapters' and the other modality's, with the mean token for the routers; once more for the queries that
    depend on what the cross-modal adapter heard.

    Parameters
    ----------
    layers
        Those offered, of both modalities.
    options
        Default: those of :class:`MoLTOptions`.

    Raises
    ------
    UsageError
        No layers of one modality, or fewer than are to be read.
    """

    # training and evaluation compile the kernels before their clocks start
    pools_tokens = True

    def __init__(self, layers: Sequence[LayerSpec], options: MoLTOptions | None = None) -> None:
        super().__init__()
        self.options = options = options or MoLTOptions()
        # what enters the first block is no layer's output
        blocks = [layer for layer in layers if layer.block]
        visual, audio = (_choose(layers_of(blocks, modality), options) for modality in MODALITIES)
        self.layers = (*visual, *audio)
        self.adapters = nn.ModuleDict()
        for modality, own, others in (("visual", visual, audio), ("audio", audio, visual)):
            pairs = zip(own, _partners(len(own), others), strict=True)
            self.adapters[modality] = nn.ModuleDict(
                {_key(layer): LayerAdapters(layer, other, options) for layer, other in pairs}
            )
        self.fusions = nn.ModuleDict({modality: TokenFusion(options.dim, options.fusion) for modality in MODALITIES})
        self.visual_dim = self.audio_dim = options.dim

    def forward(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        """The mean of the fused tokens, ``[B, T, d]``."""
        fused = self.separate(tokens)
        return MetaTokens(fused.visual.mean(-2), fused.audio.mean(-2), fused.losses)

    def separate(self, tokens: Mapping[str, LayerTokens]) -> MetaTokens:
        """The K fused tokens of each modality, ``[B, T, K, d]``."""
        layered = self.layer_tokens(tokens)
        with torch.autocast(layered["visual"].device.type, enabled=False):
            visual, audio = (self._fusion(modality)(layered[modality]) for modality in MODALITIES)
            return MetaTokens(visual, audio, self._losses(layered))

    def layer_tokens(self, tokens: Mapping[str, LayerTokens]) -> dict[str, Tensor]:
        """Layer-wise tokens of each modality, ``[B, T, n, K, d]``, from tokens ``[B, T, N, D]`` by layer name."""
        first = tokens[self.layers[0].name].codes
        # logits and statistics stay in full precision; the products that autocast would speed up are tiny
        with torch.autocast(first.device.type, enabled=False):
            frames = {layer.name: tokens[layer.name].flatten_frames() for layer in self.layers}
            own, other = self._ask(frames)
            return {
                modality: torch.stack(
                    [
                        adapters(frames[adapters.layer.name], own[adapters.layer.name], other[adapters.layer.name])
                        for adapters in self._adapters(modality)
                    ],
                    1,
                ).unflatten(0, first.shape[:2])
                for modality in MODALITIES
            }

    def fusion_weights(self, layered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights ``[B, T, n, K]`` with which layer-wise tokens of :meth:`layer_tokens` are fused."""
        return {modality: self._fusion(modality).weights(layered[modality]) for modality in MODALITIES}

    def _ask(self, frames: Mapping[str, LayerTokens]) -> tuple[dict[str, Answers], dict[str, Answers]]:
        """What each layer's adapters learn from it and, by the same name, from the layer that it is paired with."""
        adapters = [each for modality in MODALITIES for each in self._adapters(modality)]
        own: dict[str, Answers] = {}
        other: dict[str, Answers] = {}
        for layer in self.layers:
            (mine,) = (each for each in adapters if each.layer.name == layer.name)
            asking = [each for each in adapters if each.other.name == layer.name]
            queries = [mine.own_queries(), *(each.other_queries() for each in asking)]
            answers = _answers(frames[layer.name], queries, mean=self.options.routes)
            own[layer.name] = answers[0]
            other |= {each.layer.name: answer for each, answer in zip(asking, answers[1:], strict=True)}
        return own, other

    def _losses(self, layered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The regulariser, averaged over the modalities; nothing where it has no weight."""
        if not self.options.orthogonality:
            return {}
        if self.options.orthogonal == "params":
            latents = [each.latents for modality in MODALITIES for each in self._adapters(modality)]
            parts = [orthogonality_loss(each) for each in latents]
        else:
            parts = [orthogonality_loss(layered[modality].flatten(-3, -2)) for modality in MODALITIES]
        return {"orthogonality": self.options.orthogonality * torch.stack(parts).mean()}

    def _adapters(self, modality: str) -> list[LayerAdapters]:
        return cast(list[LayerAdapters], list(cast(nn.ModuleDict, self.adapters[modality]).values()))

    def _fusion(self, modality: str) -> TokenFusion:
        return cast(TokenFusion, self.fusions[modality])


def _answers(tokens: LayerTokens, queries: Sequence[Tensor], *, mean: bool) -> list[Answers]:
    """The contexts of all queries of a layer, and its mean token, from one reading."""
    asked = torch.cat(list(queries))
    mixing = asked.new_full((1, tokens.count), 1 / tokens.count) if mean else None
    if not len(asked) and mixing is None:
        context, mixed = asked.new_empty(len(tokens.codes), 0, tokens.width), None
    else:
        context, mixed = absorbed_pooling(tokens, asked, mixing)
    mean_token = None if mixed is None or mixing is None else mixed.squeeze(1)
    return [Answers(part, mean_token) for part in context.split([len(each) for each in queries], 1)]


def _choose(offered: Sequence[LayerSpec], options: MoLTOptions) -> tuple[LayerSpec, ...]:
    """The layers of one modality that are read: the first and the last of those offered."""
    last = len(offered) if options.last is None else options.last
    late = f"visual/last:{last},audio/last:{last}"
    for name, count, which, selection in (("late", last, "last", late), ("early", options.early, "first", "all")):
        if count > len(offered):
            raise UsageError(
                f"MoLT reads the {which} {count} {offered[0].modality} layers, and {len(offered)} are selected",
                hint=f"select more in the recipe's layers, such as {selection}, which mettle extract --layers "
                f"{selection} stores; or set molt.{name} to {len(offered)} or less",
            )
    return (*offered[: options.early], *offered[max(options.early, len(offered) - last) :])


def _partners(count: int, others: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The other modality's layer for each of ``count``: one to one where they are as many, else as deep in proportion.

    Counted from the end: the last layers belong together.
    """
    return [others[-1 - place * len(others) // count] for place in reversed(range(count))]


def _key(layer: LayerSpec) -> str:
    """``s3b07`` of ``visual/s3b07``: a name that a state dict's key may contain."""
    return layer.name.split("/")[1]


def _build(layers: Sequence[LayerSpec], options: Any) -> MoLT:
    return MoLT(layers, options)


KIND = MethodKind(MoLTOptions, _build)
