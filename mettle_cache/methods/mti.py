"""Meta-Token Injection: meta-tokens of the last layers, added to the tokens of earlier stages (Mettle, equation 3.4).

Per stage ``V ← V + softmax(V M_aᵀ) M_a``, then the same with ``M_v``: no projections of V, no scale. A linear for each
stage and modality maps the meta-tokens to the stage's width; where the width is theirs already there is none by
default (spec-avs.md 8.3, reading A).

Shapes: ``...`` leading axes (clips, segments), N tokens, D channels of a stage, K meta-tokens, d their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.tokens import LayerTokens

ORDERS = ("cross_first", "intra_first")
SOFTMAX_AXES = ("meta_tokens", "positions")


def inject(tokens: Tensor, meta_tokens: Tensor, *, softmax_over: str = "meta_tokens") -> Tensor:
    """One step of equation 3.4: ``tokens [..., N, D]`` and ``meta_tokens [..., K, D]`` to ``[..., N, D]``.

    Over the meta-tokens, as the paper writes it, a softmax over K = 1 is 1: the step adds one vector to every position.
    Over the positions each meta-token goes where it fits best, in shares that sum to 1 over the N positions.
    """
    if softmax_over == "meta_tokens" and meta_tokens.shape[-2] == 1:
        return tokens + meta_tokens
    weights = (tokens @ meta_tokens.mT).softmax(-1 if softmax_over == "meta_tokens" else -2)
    return tokens + weights @ meta_tokens


class MTI(nn.Module):
    """Inject audio (cross) and visual (intra) meta-tokens into stages of visual tokens.

    Parameters
    ----------
    stages
        The visual layers to read, first to last.
    dim
        d, of the meta-tokens of both modalities: the paper wants them equal.
    cross, intra
        The two injections (Table 11).
    order
        ``cross_first`` as published, or ``intra_first``; within 0.4 points of each other in the paper.
    inject_into
        Which of ``stages`` are injected into, counted from 1; None: all. The others pass through unchanged.
    softmax_over
        ``meta_tokens`` as published, or ``positions``; see :func:`inject`.
    identity
        Leave out the linear where a stage is as wide as the meta-tokens.

    Raises
    ------
    UsageError
        No stages, an unknown order or axis, or a stage that is not there.
    """

    def __init__(
        self,
        stages: Sequence[LayerSpec],
        dim: int,
        *,
        cross: bool = True,
        intra: bool = True,
        order: str = "cross_first",
        inject_into: Sequence[int] | None = None,
        softmax_over: str = "meta_tokens",
        identity: bool = True,
    ) -> None:
        super().__init__()
        for value, legal in ((order, ORDERS), (softmax_over, SOFTMAX_AXES)):
            if value not in legal:
                raise UsageError(f"MTI has no '{value}'; use one of {', '.join(legal)}")
        self.stages = tuple(stages)
        self.softmax_over = softmax_over
        wanted = tuple(range(1, len(self.stages) + 1)) if inject_into is None else tuple(inject_into)
        if not self.stages or not set(wanted) <= set(range(1, len(self.stages) + 1)):
            raise UsageError(f"MTI into stages {list(wanted)}: there are {len(self.stages)} stages, counted from 1")
        sources = [name for name, used in (("cross", cross), ("intra", intra)) if used]
        self.sources = tuple(sources if order == "cross_first" else reversed(sources))
        self.linears = nn.ModuleDict(
            {
                f"{source}{place}": nn.Identity() if identity and stage.width == dim else nn.Linear(dim, stage.width)
                for source in sources
                for place, stage in enumerate(self.stages, start=1)
                if place in wanted
            }
        )

    def forward(
        self, tokens: Mapping[str, LayerTokens], *, visual: Tensor | None, audio: Tensor | None
    ) -> list[Tensor]:
        """Tokens of each stage ``[..., N, D]`` with what was injected, from ``tokens`` by layer name.

        ``visual`` and ``audio`` are meta-tokens ``[..., K, d]``; K may differ, and None serves where their injection is
        switched off. Stored codes are decoded here, because a dense head reads every one of them.
        """
        given = {"cross": audio, "intra": visual}
        meta_tokens = {source: tensor for source in self.sources if (tensor := given[source]) is not None}
        dtype = next((tensor.dtype for tensor in (visual, audio) if tensor is not None), torch.float32)
        updated = []
        for place, stage in enumerate(self.stages, start=1):
            features = tokens[stage.name].floats(dtype)
            for source in self.sources:
                if f"{source}{place}" in self.linears:
                    own: Tensor = self.linears[f"{source}{place}"](meta_tokens[source])
                    features = inject(features, own, softmax_over=self.softmax_over)
            updated.append(features)
        return updated


def decode_stages(
    stages: Sequence[LayerSpec], tokens: Mapping[str, LayerTokens], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """What :class:`MTI` gives where nothing is injected: the stages' own tokens ``[..., N, D]``."""
    return [tokens[stage.name].floats(dtype) for stage in stages]
