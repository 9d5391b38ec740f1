"""Where heads get their tokens from, as far as training and scoring care: a store, or backbones that compute them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mettle_cache.errors import MettleError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from mettle_cache.companions import Companion
    from mettle_cache.layers import LayerSpec
    from mettle_cache.store.format.codecs import StaticArrays
    from mettle_cache.tokens import TokenBatch


class TokenSource(Protocol):
    """Clips with tokens of the same layers, and the samples that are made of them.

    :class:`~mettle_cache.store.reading.token_store.TokenStore` is one, and says what its members mean. Two sources with
    one ``key_digest`` give the same tokens, but for rounding where ``computed`` says that they are made anew.
    """

    @property
    def path(self) -> Path:
        """Where the store is; of a source without one, where it would be."""
        ...

    @property
    def dataset(self) -> str: ...
    @property
    def segments(self) -> int: ...
    @property
    def layers(self) -> tuple[LayerSpec, ...]: ...
    @property
    def codec(self) -> str: ...
    @property
    def vocabulary(self) -> Mapping[str, list[str]]: ...
    @property
    def key(self) -> Mapping[str, Any]: ...
    @property
    def key_digest(self) -> str: ...
    @property
    def content_digest(self) -> str:
        """Empty where nobody knows the tokens before they are computed."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...
    @property
    def computed(self) -> Mapping[str, Any] | None:
        """How tokens are computed where no store has them, as JSON; None for a store."""
        ...

    @property
    def samples(self) -> pa.Table: ...
    @property
    def clips(self) -> Sequence[str]: ...
    @property
    def failed(self) -> Mapping[str, str]: ...
    @property
    def static(self) -> StaticArrays: ...
    @property
    def companions(self) -> Mapping[str, Companion]: ...

    def read(self, clips: Sequence[str | int], layers: Sequence[str] | None = None) -> TokenBatch:
        """Tokens ``[B, T, N, *]`` of clips by id or index, in new memory."""
        ...

    def batches(
        self,
        order: Iterable[Sequence[int]],
        *,
        layers: Sequence[str] | None = None,
        threads: int = ...,
        depth: int = ...,
        device: str | torch.device = ...,
    ) -> Iterator[TokenBatch]:
        """Batches in the given order; each is valid until the next one is asked for.

        Raises
        ------
        ClipsFailedError
            In place of a batch: clips of ``order`` turned out to have no tokens. A store knows before.
        """
        ...

    def close(self) -> None:
        """The work is done: what was held for it is freed."""
        ...


class ClipsFailedError(MettleError):
    """Clips that a source could not compute; ``failed`` is why, by id, and ``rest`` is the source without them."""

    def __init__(self, message: str, *, failed: Mapping[str, str], rest: TokenSource, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failed = dict(failed)
        self.rest = rest
