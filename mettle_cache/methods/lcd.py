"""Layer-Centric Distillation of one modality: all its layers' tokens into one vector a segment (Mettle, 3.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.distiller import LayerDistiller, MatrixOptions
from mettle_cache.methods.kernels.distillation import Distillation, distil_layers
from mettle_cache.methods.kernels.layer_threads import LayerWork, add_up_layers
from mettle_cache.methods.kernels.ops import layers_side_by_side
from mettle_cache.methods.protocol import MethodKind, PerModality
from mettle_cache.options import Heads, Options, Width
from mettle_cache.tokens import LayerTokens

MetaTokens = Annotated[int, Field(ge=1, le=1024)]
StageMetaTokens = Annotated[tuple[MetaTokens, ...], Field(max_length=64)]
Steps = Annotated[int, Field(ge=1, le=64)]


@dataclass(frozen=True, kw_only=True)
class LCDOptions(Options):
    """The switches of Tables 6 to 10, and what docs/protocols/avel.md, "Open choices", leaves open.

    Attributes
    ----------
    dim
        d, the common width; ``none`` leaves out the projection, for backbones whose layers have one width (ViT).
    k_visual, k_audio
        K, the meta-tokens of a layer: one number for all, or one for each stage in ascending order (Table 7).
    steps_visual, steps_audio
        R, the distillation steps.
    heads
        Attention heads; they divide every layer's width.
    task_specific, pretrained_branch
        TS, the attention, and DP, the token-mixing branch: ``linear`` (W_g), ``avgpool`` or ``none`` (Tables 9, 10).
    norm
        A LayerNorm on the meta-tokens and one on the attended tokens.
    residual
        Add the meta-tokens back after the attention, which the paper does not.
    out_proj
        The linear after the attention, which the published totals want and equation 3.1 does not have. Without it three
        matrices are left, shared by all steps, and there is neither norm nor residual. Segmentation has
        ``head.out_proj`` for it.
    scale
        Logits times ``1 / sqrt(D / H)``, which equation 3.1 does not write. Equation 3.1 as printed is ``out_proj``,
        ``scale`` and ``norm`` all false.
    """

    settled: ClassVar[Mapping[str, object]] = {"attention": "absorbed"}

    dim: Width | Literal["none"] = 256
    k_visual: MetaTokens | StageMetaTokens = 1
    k_audio: MetaTokens | StageMetaTokens = 1
    steps_visual: Steps = 1
    steps_audio: Steps = 1
    heads: Heads = 8
    task_specific: bool = True
    pretrained_branch: Literal["linear", "avgpool", "none"] = "linear"
    norm: bool = True
    residual: bool = False
    out_proj: bool = True
    scale: bool = True

    def problems(self) -> Sequence[str]:
        wrong = []
        if not self.task_specific and self.pretrained_branch == "none":
            wrong.append("task_specific = false and pretrained_branch = 'none' together leave nothing to train")
        if not self.out_proj and (self.norm or self.residual):
            wrong.append(
                "out_proj = false is equation 3.1, which has neither norm nor residual: set norm and residual to false"
            )
        return wrong

    def matrices(self) -> MatrixOptions | None:
        """The matrices of equation 3.1 where they take the place of an attention module."""
        return None if self.out_proj else MatrixOptions(shared_steps=True)

    def meta_tokens(self, modality: str) -> int | tuple[int, ...]:
        """K of a modality."""
        return self.k_visual if modality == "visual" else self.k_audio

    def steps(self, modality: str) -> int:
        """R of a modality."""
        return self.steps_visual if modality == "visual" else self.steps_audio


class LCD(nn.Module):
    """Distil each layer in parallel, project to a common width, and average (equations 3.1 to 3.3).

    Nothing is shared between layers; everything is shared over the T segments. Shapes: B clips, T segments, N tokens, D
    channels of a layer, d output channels.

    Parameters
    ----------
    layers
        The layers to read, of one modality, which decides K and R.
    options
        Default: those of :class:`LCDOptions`.

    Raises
    ------
    UsageError
        No layers, layers of two modalities, a width that ``heads`` does not divide, different widths without a
        projection, or a list of meta-token numbers that does not match the stages.
    """

    def __init__(self, layers: Sequence[LayerSpec], options: LCDOptions | None = None) -> None:
        super().__init__()
        options = options or LCDOptions()
        modalities = sorted({layer.modality for layer in layers})
        if len(modalities) != 1:
            raise UsageError(f"LCD needs at least one layer, all of one modality, not {modalities or 'none'}")
        self.layers = tuple(layers)
        counts = count_by_stage(self.layers, options.meta_tokens(modalities[0]))
        self.count = sum(counts[layer.stage] for layer in self.layers)
        self.distillers = nn.ModuleDict(
            {
                _key(layer): LayerDistiller(
                    layer, counts[layer.stage], options.steps(modalities[0]), options, options.matrices()
                )
                for layer in self.layers
            }
        )
        dim = None if isinstance(options.dim, str) else options.dim
        self.output_dim = dim if dim is not None else _common_width(self.layers)
        self.projections = nn.ModuleDict(
            {} if dim is None else {_key(layer): nn.Linear(layer.width, dim) for layer in self.layers}
        )

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """Aggregate meta-tokens ``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``.

        Layers that this module does not read are ignored.
        """
        first = tokens[self.layers[0].name]
        side_by_side = layers_side_by_side(first)
        summed = None if side_by_side else self._distil_stages(tokens)
        if summed is None:
            works = [self._work(layer, tokens[layer.name]) for layer in self.layers]
            summed = add_up_layers(works, side_by_side=side_by_side)
        meta_tokens: Tensor = summed.unflatten(0, first.codes.shape[:2]) / self.count
        return meta_tokens

    def separate(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """The meta-tokens one by one, ``[B, T, K, d]``, those of all layers in their order."""
        distilled = []
        for layer in self.layers:
            stored, projection = tokens[layer.name], self._projection(layer)
            meta_tokens = self.distillers[_key(layer)](stored.flatten_frames()).unflatten(0, stored.codes.shape[:2])
            distilled.append(meta_tokens if projection is None else projection(meta_tokens))
        return distilled[0] if len(distilled) == 1 else torch.cat(distilled, dim=-2)

    def _distil_stages(self, tokens: Mapping[str, LayerTokens]) -> Tensor | None:
        """The sum of all layers' meta-tokens ``[F, d]``, pooled stage by stage where the machine's kernel can.

        None where distillers have no last step that could be taken together.
        """
        # in full precision, as a distiller's own forward pass
        with torch.autocast(tokens[self.layers[0].name].codes.device.type, enabled=False):
            steps: list[Distillation] = []
            for layer in self.layers:
                distiller = cast(LayerDistiller, self.distillers[_key(layer)])
                frames, projection = tokens[layer.name].flatten_frames(), self._projection(layer)
                step = distiller.last_step(frames, projection, summed=True)
                if step is None:
                    return None
                steps.append(step)
            return functools.reduce(torch.add, distil_layers(steps)).squeeze(1)

    def _projection(self, layer: LayerSpec) -> nn.Linear | None:
        return cast(nn.Linear, self.projections[_key(layer)]) if self.projections else None

    def _work(self, layer: LayerSpec, stored: LayerTokens) -> LayerWork:
        distiller, projection = self.distillers[_key(layer)], self._projection(layer)
        parameters = [*distiller.parameters(), *(projection.parameters() if projection else ())]

        def distil() -> Tensor:
            summed: Tensor = distiller(stored.flatten_frames(), projection, summed=True)
            return summed

        # measured: products with matrices weigh a tenth of those with tokens
        return LayerWork(distil, tuple(parameters), layer.width * (layer.tokens + layer.width / 10))


def count_by_stage(layers: Sequence[LayerSpec], meta_tokens: int | Sequence[int]) -> dict[int, int]:
    """K for each stage that ``layers`` touch.

    Raises
    ------
    UsageError
        There are more or fewer numbers than stages.
    """
    stages = sorted({layer.stage for layer in layers})
    if isinstance(meta_tokens, int):
        return dict.fromkeys(stages, meta_tokens)
    if len(meta_tokens) != len(stages):
        raise UsageError(f"{len(meta_tokens)} meta-token numbers for {len(stages)} stages ({stages})")
    return dict(zip(stages, meta_tokens, strict=True))


def _build(layers: Sequence[LayerSpec], options: Any) -> PerModality:
    return PerModality(layers, lambda chosen: LCD(chosen, options))


KIND = MethodKind(LCDOptions, _build)


def _key(layer: LayerSpec) -> str:
    """``s3b07`` of ``visual/s3b07``: a name that a state dict's key may contain."""
    return layer.name.split("/")[1]


def _common_width(layers: Sequence[LayerSpec]) -> int:
    widths = {layer.width for layer in layers}
    if len(widths) > 1:
        raise UsageError(f"layers of widths {sorted(widths)} need a projection: set dim to a number")
    return widths.pop()
