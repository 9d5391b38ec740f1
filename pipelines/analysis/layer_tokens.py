"""What a method with layer-wise tokens made of a split: how alike its tokens are, and what their fusion weighs.

MoLT's Figure 5: (a) the cosine of each two layer-wise tokens, (b) the fusion weights. To be compared between runs with
and without the orthogonality regulariser.

Shapes: B samples, T segments, n layers of a modality, K tokens of each, M = n K, d channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.errors import UsageError
from mettle_cache.layers import MODALITIES, LayerSpec
from mettle_cache.methods.molt_fusion import cosines
from mettle_cache.paths import local_path
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.train.best_run import best_run
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.run_tokens import TokenOptions, open_tokens
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split, no_samples, read_split
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import LayerTokens


@runtime_checkable
class LayerWiseMethod(Protocol):
    """A method that makes tokens of each layer and fuses them, such as :class:`mettle_cache.methods.molt.MoLT`."""

    layers: tuple[LayerSpec, ...]

    def layer_tokens(self, tokens: Mapping[str, LayerTokens]) -> dict[str, Tensor]:
        """``[B, T, n, K, d]`` by modality."""
        ...

    def fusion_weights(self, layered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``[B, T, n, K]`` by modality."""
        ...


@dataclass(frozen=True, kw_only=True)
class LayerTokenFacts:
    """One modality's tokens, averaged over the segments of a split.

    ``layers`` are the n layers; ``cosines [M, M]`` the mean cosine of each two tokens, K of a layer together, and
    ``squared`` the mean square of those of different tokens, which is what the regulariser weighs: 0 where all are
    orthogonal, 1 where all are parallel. ``weights`` and ``spread`` ``[n, K]`` are mean and standard deviation of the
    fusion weights, which sum to 1 over the layers.
    """

    layers: tuple[str, ...]
    cosines: NDArray[np.float64]
    squared: float
    weights: NDArray[np.float64]
    spread: NDArray[np.float64]

    @property
    def layer_weights(self) -> NDArray[np.float64]:
        """The mean weight of a layer's tokens, ``[n]``."""
        shares: NDArray[np.float64] = self.weights.mean(axis=1)
        return shares

    def to_json(self) -> dict[str, object]:
        arrays = {name: getattr(self, name).tolist() for name in ("cosines", "weights", "spread", "layer_weights")}
        return {"layers": list(self.layers), "squared_cosine": self.squared, **arrays}


@dataclass(frozen=True, kw_only=True)
class LayerTokenReport:
    """The tokens of one run on a split, by modality; ``options`` are the method's, in plain values."""

    run: Path
    split: str
    samples: int
    method: str
    options: Mapping[str, Any]
    modalities: Mapping[str, LayerTokenFacts]

    def to_json(self) -> dict[str, object]:
        return {
            "run": str(self.run),
            "split": self.split,
            "samples": self.samples,
            "method": self.method,
            "options": dict(self.options),
            "modalities": {name: facts.to_json() for name, facts in self.modalities.items()},
        }


@torch.no_grad()
def layer_token_facts(
    run: str | Path,
    *,
    split: str = "test",
    store: str | Path | TokenStore | None = None,
    device: str | None = None,
    threads: int = 3,
    progress: Progress | None = None,
) -> LayerTokenReport:
    """Run the method of a run's best epoch over a split. Nothing is written.

    Parameters
    ----------
    store
        The store to read, where it is no longer at the path that the run remembers.

    Raises
    ------
    UsageError
        The run's method makes no tokens of single layers, or the split has no samples with tokens.
    RunError, StoreError
        The run is missing, damaged or of another store; the store is missing or damaged.
    """
    progress = progress or Silent()
    prepare_process()
    folder, target = RunFolder(local_path(run)), choose_device(device)
    config = folder.read_config()
    recipe = config.load_recipe()
    given = local_path(store) if isinstance(store, str | Path) else store
    opened = open_tokens(folder.path, config, TokenOptions(device=device), progress, instead=given)
    trained, _ = best_run(folder, config, opened, target)
    trained.model.eval()
    method = _require_layer_wise(trained.model, f"{folder.path}: its method {recipe.method}")
    samples = read_split(opened, split)
    if not samples.rows:
        raise no_samples(opened, samples)
    loader = SampleLoader(opened, method.layers, device=target, threads=threads)
    facts = _go_over(method, loader, samples, recipe.train.batch_size, progress)
    table = recipe.to_json()[recipe.method]
    return LayerTokenReport(
        run=folder.path,
        split=split,
        samples=len(samples),
        method=recipe.method,
        options=table if isinstance(table, Mapping) else {},
        modalities=facts,
    )


def layer_wise_method(model: nn.Module) -> LayerWiseMethod | None:
    """A model's method, where it makes tokens of each layer and fuses them."""
    return next((module for module in model.modules() if isinstance(module, LayerWiseMethod)), None)


def _require_layer_wise(model: nn.Module, what: str) -> LayerWiseMethod:
    method = layer_wise_method(model)
    if method is None:
        raise UsageError(
            f"{what} makes no tokens of single layers that it fuses with weights",
            hint="train one with --set method=molt",
        )
    return method


class _Sums:
    """One modality's sums over segments."""

    def __init__(self) -> None:
        self.segments = 0
        self.cosines: Tensor | float = 0.0
        self.squared = 0.0
        self.weights: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, layered: Tensor, weights: Tensor) -> None:
        found, shares = cosines(layered.flatten(-3, -2).flatten(0, 1)).double(), weights.flatten(0, 1).double()
        self.segments += len(found)
        self.cosines = self.cosines + found.sum(0)
        count = found.shape[-1]
        different = found.square().sum((-2, -1)) - found.diagonal(dim1=-2, dim2=-1).square().sum(-1)
        self.squared += float(different.sum()) / max(count * (count - 1), 1)
        self.weights = self.weights + shares.sum(0)
        self.squares = self.squares + shares.square().sum(0)

    def facts(self, layers: Sequence[str]) -> LayerTokenFacts:
        found, total, squares = (
            torch.as_tensor(each).cpu().numpy() / self.segments for each in (self.cosines, self.weights, self.squares)
        )
        return LayerTokenFacts(
            layers=tuple(layers),
            cosines=found,
            squared=self.squared / self.segments,
            weights=total,
            spread=np.sqrt(np.maximum(squares - total**2, 0)),
        )


def _go_over(
    method: LayerWiseMethod, loader: SampleLoader, split: Split, batch_size: int, progress: Progress
) -> dict[str, LayerTokenFacts]:
    sums = {modality: _Sums() for modality in MODALITIES}
    progress.start(len(split), "clips", f"fusion {split.name}")
    for batch in loader.batches(split.rows, batch_size):
        layered = method.layer_tokens(batch.tokens.layers)
        weights = method.fusion_weights(layered)
        for modality, each in sums.items():
            each.add(layered[modality], weights[modality])
        progress.advance(len(batch.rows), nbytes=batch.tokens.nbytes)
    progress.finish()
    names = {m: [layer.name for layer in method.layers if layer.modality == m] for m in MODALITIES}
    return {modality: each.facts(names[modality]) for modality, each in sums.items()}
