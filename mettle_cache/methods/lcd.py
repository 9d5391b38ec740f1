"""Layer-Centric Distillation of one modality: all its layers' tokens into one vector a segment (Mettle, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.distiller import DistillerOptions, LayerDistiller
from mettle_cache.methods.kernels.layer_threads import LayerWork, add_up_layers
from mettle_cache.methods.kernels.ops import layers_side_by_side
from mettle_cache.tokens import LayerTokens


class LCD(nn.Module):
    """Distil each layer in parallel, project to a common width, and average (equations 3.1 to 3.3).

    Nothing is shared between layers; everything is shared over the T segments.

    Parameters
    ----------
    layers
        The layers to read, of one modality.
    dim
        d, the common width; None leaves out the projection, for backbones whose layers have one width (ViT).
    meta_tokens
        K, for all layers alike or one number for each stage in ascending order (Table 7).
    steps, heads, task_specific, pretrained_branch, norm, residual, attention
        See :class:`DistillerOptions`.

    Raises
    ------
    UsageError
        No layers, a width that ``heads`` does not divide, different widths without a projection, or a list of
        meta-token numbers that does not match the stages.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        dim: int | None = 256,
        meta_tokens: int | Sequence[int] = 1,
        steps: int = 1,
        heads: int = 8,
        task_specific: bool = True,
        pretrained_branch: str = "linear",
        norm: bool = True,
        residual: bool = False,
        attention: str = "absorbed",
    ) -> None:
        super().__init__()
        options = DistillerOptions(
            steps=steps,
            heads=heads,
            task_specific=task_specific,
            pretrained_branch=pretrained_branch,
            norm=norm,
            residual=residual,
            attention=attention,
        )
        if not layers:
            raise UsageError("LCD needs at least one layer")
        self.layers = tuple(layers)
        counts = count_by_stage(self.layers, meta_tokens)
        self.count = sum(counts[layer.stage] for layer in self.layers)
        self.absorbed = attention == "absorbed"
        self.distillers = nn.ModuleDict(
            {_key(layer): LayerDistiller(layer, counts[layer.stage], options) for layer in self.layers}
        )
        self.output_dim = dim if dim is not None else _common_width(self.layers)
        self.projections = nn.ModuleDict(
            {} if dim is None else {_key(layer): nn.Linear(layer.width, dim) for layer in self.layers}
        )

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """Aggregate meta-tokens ``[B, T, d]`` from ``tokens`` by layer name, each ``[B, T, N, D]``.

        B clips, T segments, N tokens, D channels. Layers that this module does not read are ignored.
        """
        works = [self._work(layer, tokens[layer.name]) for layer in self.layers]
        first = tokens[self.layers[0].name]
        summed = add_up_layers(works, side_by_side=self.absorbed and layers_side_by_side(first))
        meta_tokens: Tensor = summed.unflatten(0, first.codes.shape[:2]) / self.count
        return meta_tokens

    def _work(self, layer: LayerSpec, stored: LayerTokens) -> LayerWork:
        key = _key(layer)
        distiller, projection = self.distillers[key], self.projections[key] if self.projections else None
        parameters = [*distiller.parameters(), *(projection.parameters() if projection else ())]

        def distil() -> Tensor:
            summed: Tensor = distiller(stored.flatten_frames(), projection, summed=True)
            return summed

        # measured: products with matrices weigh a tenth of those with tokens
        return LayerWork(distil, tuple(parameters), layer.width * (layer.tokens + layer.width / 10))


def count_by_stage(layers: Sequence[LayerSpec], meta_tokens: int | Sequence[int]) -> dict[int, int]:
    """K for each stage that ``layers`` touch."""
    stages = sorted({layer.stage for layer in layers})
    if isinstance(meta_tokens, int):
        return dict.fromkeys(stages, meta_tokens)
    if len(meta_tokens) != len(stages):
        raise UsageError(f"{len(meta_tokens)} meta-token numbers for {len(stages)} stages ({stages})")
    return dict(zip(stages, meta_tokens, strict=True))


def _key(layer: LayerSpec) -> str:
    """The part of a layer's name that may stand in a state dict's key."""
    return layer.name.split("/")[1]


def _common_width(layers: Sequence[LayerSpec]) -> int:
    widths = {layer.width for layer in layers}
    if len(widths) > 1:
        raise UsageError(f"layers of widths {sorted(widths)} need a projection: give LCD a dim")
    return widths.pop()
