"""The tokens that heads are compared on: a float16 store in other codecs, and the clip's mean token as a control."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mettle_cache.errors import RunError
from mettle_cache.pipelines.compare.config import CLIP_MEAN, REFERENCE
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.store.format.digests import digest_of
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import LayerTokens, TokenBatch


class ClipMeanStore(TokenStore):
    """A store in float16 as it would be if every token of a clip were the mean of all of them, layer by layer.

    Computed as batches are read, so it takes no room; its key is its own.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.key_digest = digest_of([self.key_digest, CLIP_MEAN])
        self.codec = CLIP_MEAN

    @property
    def companion_folder(self) -> None:
        """None: what lies beside the store is of its own tokens."""
        return None

    def batches(self, *arguments: Any, **options: Any) -> Iterator[TokenBatch]:
        """As those of the store itself; every token is its clip's mean."""
        for batch in super().batches(*arguments, **options):
            yield TokenBatch({name: _clip_mean(tokens) for name, tokens in batch.layers.items()}, batch.clips)


def open_tokens(store: TokenStore, name: str, folder: Path, progress: Progress) -> TokenStore:
    """The tokens of ``store`` called ``name``: itself, its clip means, or in a codec, as a new store in ``folder``.

    Recoding once and reading the smaller store in every epoch is faster than encoding every batch again.

    Raises
    ------
    RunError
        The codec cannot hold all clips.
    """
    if name == REFERENCE:
        return store
    if name == CLIP_MEAN:
        return ClipMeanStore.open(store.path)
    report = recode(RecodeConfig(store=store.path, codec=name, out=folder), progress)
    if report.failures:
        clip, reason = next(iter(report.failures.items()))
        raise RunError(f"{len(report.failures)} clips cannot be in {name}, such as {clip}: {reason}")
    return TokenStore.open(folder)


def _clip_mean(tokens: LayerTokens) -> LayerTokens:
    def spread(codes: Tensor) -> Tensor:
        # in float32: a sum of many tokens leaves float16
        return codes.float().mean((1, 2), keepdim=True).to(codes.dtype).expand(codes.shape).contiguous()

    return tokens.map(spread)
