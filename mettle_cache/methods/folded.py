"""LCD with one distillation step as :func:`mettle_cache.methods.folding.fold_lcd` leaves it: for inference only.

From a file that ``mettle export`` wrote::

    from mettle_cache.methods.folded import load_folded

    visual = load_folded("runs/ave-swin-htsat-0/folded.safetensors")["visual"]
    features = visual(store.read([0]).layers)  # [clip, T, d], from int8 codes
    features = visual({name: LayerTokens(x, FLOATS) for name, x in floats.items()})  # or from a backbone's floats

Shapes: B clips, T segments, F = B T frames, N tokens, D channels, K meta-tokens, H heads, d output channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mettle_cache.errors import RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.kernels.ops import absorbed_pooling
from mettle_cache.tokens import LayerTokens

FORMAT = "mettle-folded-1"
_AGAIN = "write it again with: mettle export RUN"


@dataclass(frozen=True, kw_only=True)
class FoldedShape:
    """What a folded layer is made of, its numbers aside.

    ``queries`` is K H, 0 without the attention branch; ``eps`` is the norm's on the attended tokens, None without;
    ``mixing`` says whether there is a mixing branch and ``projected`` whether a projection follows it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    layer: LayerSpec
    queries: int
    heads: int
    eps: float | None
    mixing: bool
    projected: bool


class FoldedLayer(nn.Module):
    """One layer of :class:`FoldedLCD`: its share of the sum over layers, biases left out."""

    def __init__(self, shape: FoldedShape, dim: int) -> None:
        super().__init__()
        self.shape = shape
        width = shape.layer.width
        self.queries = nn.Parameter(torch.empty(shape.queries, width))
        if shape.queries:
            self.values = nn.Parameter(torch.empty(shape.heads, width // shape.heads, width))
            self.out = nn.Parameter(torch.empty(dim, width))
        if shape.mixing:
            self.mixing = nn.Parameter(torch.empty(1, shape.layer.tokens))
            if shape.projected:
                self.project = nn.Parameter(torch.empty(dim, width))

    def forward(self, tokens: LayerTokens) -> Tensor:
        """``[F, d]`` from one layer's tokens, ``codes [F, N, D]``."""
        shape = self.shape
        mixing = self.mixing if shape.mixing else None
        eps, contexts = (shape.eps, shape.heads) if shape.queries else (None, 0)
        context, mixed = absorbed_pooling(tokens, self.queries, mixing, eps=eps, contexts=contexts)
        total: Tensor | None = None
        if shape.queries:
            attended = torch.einsum("fhd,hed->fhe", context, self.values).flatten(1)
            total = nn.functional.linear(attended, self.out)
        if shape.mixing:
            share = mixed.squeeze(1)
            share = nn.functional.linear(share, self.project) if shape.projected else share
            total = share if total is None else total + share
        assert total is not None
        return total


class FoldedLCD(nn.Module):
    """The same function of the tokens as the LCD that it was made from, for inference only."""

    def __init__(self, shapes: Sequence[FoldedShape], dim: int) -> None:
        super().__init__()
        self.output_dim = dim
        self.layers = tuple(shape.layer for shape in shapes)
        self.folded = nn.ModuleList(FoldedLayer(shape, dim) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(dim))
        self.requires_grad_(False)

    def forward(self, tokens: Mapping[str, LayerTokens]) -> Tensor:
        """``[B, T, d]`` from ``tokens`` by layer name, codes or floats, each ``[B, T, N, D]``; others are ignored."""
        total: Tensor | None = None
        with torch.autocast(self.bias.device.type, enabled=False):
            for layer, folded in zip(self.layers, self.folded, strict=True):
                stored = tokens[layer.name]
                share = folded(stored.flatten_frames()).unflatten(0, stored.codes.shape[:2])
                total = share if total is None else total + share
        assert total is not None
        return total + self.bias

    def to_json(self) -> dict[str, object]:
        """All but the numbers; :meth:`from_json` is the inverse."""
        return {"dim": self.output_dim, "layers": [asdict(cast(FoldedLayer, folded).shape) for folded in self.folded]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> FoldedLCD:
        """A module on the meta device, to load weights into.

        Raises
        ------
        ValueError, KeyError, TypeError
            It is not what :meth:`to_json` gives.
        """
        shapes = TypeAdapter(list[FoldedShape]).validate_python(table["layers"])
        with torch.device("meta"):
            return cls(shapes, TypeAdapter(int).validate_python(table["dim"]))


def load_folded(path: Path) -> dict[str, FoldedLCD]:
    """The folded LCDs of a file that ``mettle export`` wrote, by their place in the model: ``visual`` and ``audio``.

    Raises
    ------
    RunError
        The file is missing, damaged, or something else.
    """
    tensors, table = read_folded(path)
    try:
        modules = {name: FoldedLCD.from_json(shapes) for name, shapes in table["folded"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: its description of the folded layers is damaged ({error})") from error
    for name, module in modules.items():
        start = f"{name}."
        state = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        expected = {key: value.shape for key, value in module.state_dict().items()}
        if expected != {key: value.shape for key, value in state.items()}:
            raise RunError(f"{path}: the tensors of {name} are not those of its description", hint=_AGAIN)
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
    return modules


def read_folded(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of such a file, those that are not folded included, and its description.

    Raises
    ------
    RunError
        As :func:`load_folded`.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no exported head", hint="write it with: mettle export RUN")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        table = json.loads(metadata[FORMAT]) if FORMAT in metadata else None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: the exported head is damaged ({error})", hint=_AGAIN) from error
    if not isinstance(table, dict):
        raise RunError(f"{path}: this is not an exported head of format {FORMAT}", hint=_AGAIN)
    return tensors, table
