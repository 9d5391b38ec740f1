"""Folding an LCD with one distillation step for inference (docs/design.md, "Folding heads of one step").

With R = 1 the queries do not depend on the tokens, so everything that only weights enter is computed once:

- ``W_Q``, ``W_K``, the meta-tokens and both norms' weights become K H query vectors a layer;
- ``W_O``, the layer's projection and the mean over layers and meta-tokens become one matrix ``[d, D]``, and all biases
  of all layers one vector ``[d]``;
- the K rows of the mixing branch become one, because only their sum is used.

``W_V`` stays, with the norm's weight in it: merged with ``W_O`` it would take H matrices ``[d, D]``. Equal to the
module to rounding, on floats and on the codes of every codec (tests/methods/test_folding.py).
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.methods.distiller import LayerDistiller
from mettle_cache.methods.folded import FoldedLCD, FoldedShape
from mettle_cache.methods.lcd import LCD


def fold_lcd(lcd: LCD) -> FoldedLCD:
    """Fold a trained LCD; computed in double precision and rounded once to that of the module.

    Raises
    ------
    UsageError
        R is more than 1.
    """
    distillers = [cast(LayerDistiller, distiller) for distiller in lcd.distillers.values()]
    projections: list[nn.Linear | None] = [cast(nn.Linear, linear) for linear in lcd.projections.values()]
    projections = projections or [None] * len(distillers)
    share = 1 / sum(distiller.count for distiller in distillers)
    parts = [
        _fold_layer(distiller, projection, share) for distiller, projection in zip(distillers, projections, strict=True)
    ]
    module = FoldedLCD([shape for shape, _, _ in parts], lcd.output_dim)
    state = {"bias": torch.stack([constant for _, _, constant in parts]).sum(0)}
    for number, (_, tensors, _) in enumerate(parts):
        state |= {f"folded.{number}.{name}": tensor for name, tensor in tensors.items()}
    like = distillers[0].unit
    module.load_state_dict({name: tensor.to(like).contiguous() for name, tensor in state.items()}, assign=True)
    return module.requires_grad_(False).eval()


@torch.no_grad()
def _fold_layer(
    distiller: LayerDistiller, projection: nn.Linear | None, share: float
) -> tuple[FoldedShape, dict[str, Tensor], Tensor]:
    """Shape, tensors and constant of one layer, ``share`` being the weight of a meta-token in the mean."""
    options, layer, count = distiller.options, distiller.layer, distiller.count
    if options.task_specific and distiller.steps > 1:
        raise UsageError(
            f"layer {layer.name}: LCD with R = {distiller.steps} cannot be folded: from its second step on the queries "
            "depend on the tokens",
            hint="train with lcd.steps_visual = 1 and lcd.steps_audio = 1, or use the run as it is",
        )
    exact = copy.deepcopy(distiller).cpu().double()
    project = torch.eye(layer.width).double() if projection is None else projection.weight.cpu().double()
    # what every frame gets, before the projection and as a sum over the meta-tokens
    constant = project.new_zeros(layer.width)
    tensors = {"queries": project.new_empty(0, layer.width)}
    if options.task_specific:
        out = exact.attention.out_proj
        tensors["queries"] = exact.absorbed_queries(exact.meta_tokens)
        tensors["values"], shift = _fold_values(exact)
        tensors["out"] = share * project @ out.weight
        constant += count * (out.weight @ shift + out.bias)
        constant += exact.meta_tokens.sum(0) if options.residual else 0
    mixing = exact.mixing()
    if mixing is not None:
        tensors["mixing"] = mixing.sum(0, keepdim=True)
        constant += exact.mix.bias.sum() if options.pretrained_branch == "linear" else 0
        # the width of the layer is the common one where nothing projects
        tensors |= {"project": share * project} if projection is not None else {}
        tensors["mixing"] *= 1 if projection is not None else share
    constant = project @ constant + (0 if projection is None else count * projection.bias.cpu().double())
    shape = FoldedShape(
        layer=layer,
        queries=len(tensors["queries"]),
        heads=options.heads,
        eps=exact.norm_tokens.eps if options.task_specific and options.norm else None,
        mixing=mixing is not None,
        projected=projection is not None,
    )
    return shape, tensors, share * constant


def _fold_values(distiller: LayerDistiller) -> tuple[Tensor, Tensor]:
    """``W_V`` by head, ``[H, D/H, D]``, with the norm's weight in it; what its and the norm's biases give, ``[D]``."""
    width, attention = distiller.layer.width, distiller.attention
    values, shift = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    if distiller.options.norm:
        shift = shift + values @ distiller.norm_tokens.bias
        values = values * distiller.norm_tokens.weight
    return values.unflatten(0, (distiller.options.heads, -1)), shift
