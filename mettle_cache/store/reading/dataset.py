"""A split of a store as a PyTorch ``Dataset``, with its collate function, for any training loop.

:meth:`TokenStore.batches <mettle_cache.store.reading.token_store.TokenStore.batches>` is faster, without copies and
processes; this one is for loops that take a ``DataLoader``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.samples import clips_of_samples
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import LayerTokens, TokenBatch, stack_tokens


class LearnedTask(Protocol):
    """The part of a task (:class:`mettle_cache.tasks.protocol.Task`) that is used here: its layers and targets."""

    @property
    def layers(self) -> Sequence[LayerSpec]: ...

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Targets of samples, by position in the sample table, leading axis B."""
        ...


class TokenDataset(Dataset[dict[str, Any]]):
    """The samples of one split whose clips have tokens, in the order of the annotations.

    A sample is a dictionary: ``tokens`` by layer name, each ``[T, N, D]`` as stored (``[F T, N, D]`` where a sample is
    made of F clips); ``row``, its position in ``store.samples``; ``clips``, theirs on the clip axis; with a task,
    ``targets``. :meth:`collate` makes a batch of samples::

        dataset = TokenDataset(store, "train", task=task)
        loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=dataset.collate, pin_memory=True)

    Workers may be spawned: each opens the store for itself.

    Parameters
    ----------
    layers
        Names of the layers to read; by default those of the task, or all.
    task
        An object that is bound to the store's samples; the store knows none by name. That of the store's recipe is
        ``bind_task(load_recipe(default_recipe(store)), store)``, of ``mettle_cache.pipelines.train.task`` and
        ``.recipe``.

    Raises
    ------
    UsageError
        The store has no such split, no such layer, or no sample of the split has tokens.
    """

    def __init__(
        self,
        store: TokenStore,
        split: str,
        layers: Sequence[str] | None = None,
        task: LearnedTask | None = None,
    ) -> None:
        self.store = store
        self.split = split
        self.task = task
        named = [layer.name for layer in task.layers] if layers is None and task is not None else layers
        self.layers = store.layer_names(named)
        splits = store.samples["split"].to_pylist() if "split" in store.samples.column_names else []
        if split not in splits:
            raise UsageError(
                f"{store.path} has no split '{split}'", hint=f"use one of {', '.join(dict.fromkeys(map(str, splits)))}"
            )
        clips = [tuple(store.index(clip) for clip in members) for members in clips_of_samples(store.samples)]
        self.rows = [
            row
            for row, name in enumerate(splits)
            if name == split and all(store.statuses[clip] == "ok" for clip in clips[row])
        ]
        if not self.rows:
            raise UsageError(f"no sample of split '{split}' has tokens in {store.path}", hint="see store.failed")
        self._clips = [clips[row] for row in self.rows]

    def __repr__(self) -> str:
        return f"<TokenDataset {self.split} of {self.store.path}: {len(self)} samples, {len(self.layers)} layers>"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, clips = self.rows[index], self._clips[index]
        batch = self.store.read(clips, self.layers)
        sample: dict[str, Any] = {
            "tokens": {name: layer.flatten_frames() for name, layer in batch.layers.items()},
            "row": row,
            "clips": clips,
        }
        return sample if self.task is None else {**sample, "targets": self.task.targets([row])[0]}

    @staticmethod
    def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """B samples as a batch: ``tokens`` (a :class:`~mettle_cache.tokens.TokenBatch`, ``[B, T, N, D]`` a layer),
        ``rows`` ``[B]`` and, with a task, ``targets`` ``[B, ...]``; all of it can be pinned and moved."""
        layers: dict[str, LayerTokens] = {
            name: stack_tokens([sample["tokens"][name] for sample in samples]) for name in samples[0]["tokens"]
        }
        batch: dict[str, Any] = {
            "tokens": TokenBatch(layers, tuple(clip for sample in samples for clip in sample["clips"])),
            "rows": torch.tensor([sample["row"] for sample in samples]),
        }
        if "targets" in samples[0]:
            batch["targets"] = torch.stack([sample["targets"] for sample in samples])
        return batch
