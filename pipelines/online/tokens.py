"""Tokens of a data set's clips, computed by its frozen backbones whenever they are wanted."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from mettle_cache.companions import HeldCompanion
from mettle_cache.errors import DatasetError, MediaError, MettleError, TokensError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.failures import MOST_BEFORE_A_SUCCESS, EveryClipFailsError
from mettle_cache.pipelines.extract.late_bundles import late_bundles
from mettle_cache.pipelines.online.passes import Computed, Wanted, compute_clips
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import count, format_seconds
from mettle_cache.store.format.codecs import StaticArrays
from mettle_cache.store.format.layout import ArrayLayout, store_layout
from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.reading.token_source import ClipsFailedError
from mettle_cache.store.writing.shards import check_tokens
from mettle_cache.tokens import LayerTokens, TokenBatch, stack_tokens

if TYPE_CHECKING:
    import pyarrow as pa

LISTED = 5
MEND = "mend their files; or do without them: --skip-missing (the accuracy is then not comparable)"


@dataclass
class Clock:
    """Seconds that a reader waited for tokens, and those that it took itself; clips that it got, and that failed."""

    waiting: float = 0.0
    using: float = 0.0
    clips: int = 0
    failed: int = 0

    @property
    def only_failures(self) -> bool:
        """Whether failures are no longer the exception."""
        return not self.clips and self.failed >= MOST_BEFORE_A_SUCCESS

    def describe(self) -> str:
        """How the time was divided between backbones and heads."""
        rate = self.clips / (self.waiting + self.using) if self.clips else 0.0
        return (
            f"{count(self.clips, 'clip')} went through the backbones, {rate:.2f} a second: waiting for tokens took "
            f"{format_seconds(self.waiting)}, the heads' own work {format_seconds(self.using)}"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineTokens:
    """A :class:`~mettle_cache.store.reading.token_source.TokenSource` without a store.

    Attributes
    ----------
    extractor
        The data set, its backbones and the codec, whose codes heads see.
    metadata
        Those of the store that an extraction by ``extractor`` would make; nothing of it need be on the disk.
    recipe
        How to make this source again, as JSON: the data set's folder, and what else a store's key does not hold.
    failed
        Clips without tokens, and why: they cannot be read, or were left out.
    skip_missing
        Whether clips that turn out to fail may be left out, too; else they end the work.
    """

    extractor: Extractor
    metadata: StoreMetadata
    recipe: Mapping[str, Any]
    failed: Mapping[str, str]
    skip_missing: bool
    progress: Progress
    clock: Clock = field(default_factory=Clock)

    content_digest = ""

    @property
    def path(self) -> Path:
        return self.metadata.path

    @property
    def dataset(self) -> str:
        return self.metadata.record.key.dataset

    @property
    def segments(self) -> int:
        return self.metadata.segments

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        return self.metadata.layers

    @property
    def codec(self) -> str:
        return self.metadata.record.key.codec

    @property
    def vocabulary(self) -> Mapping[str, list[str]]:
        return self.metadata.record.key.vocabulary

    @cached_property
    def key(self) -> Mapping[str, Any]:
        return self.metadata.record.key.model_dump(mode="json")

    @property
    def key_digest(self) -> str:
        return self.metadata.record.key_digest

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.metadata.record.provenance

    @property
    def samples(self) -> pa.Table:
        return self.extractor.dataset.samples

    @cached_property
    def clips(self) -> tuple[str, ...]:
        return tuple(clip.id for clip in self.extractor.dataset.clips)

    @property
    def static(self) -> StaticArrays:
        return self.extractor.static

    @cached_property
    def companions(self) -> Mapping[str, HeldCompanion]:
        return late_bundles(self.key_digest, self.layers, self.extractor.backbones)

    @property
    def computed(self) -> Mapping[str, Any]:
        """:attr:`recipe` and the clips that are left out."""
        return {**self.recipe, "failed": dict(self.failed)}

    def read(self, clips: Sequence[str | int], layers: Sequence[str] | None = None) -> TokenBatch:
        """Tokens ``[B, T, N, *]`` of clips by id or index; raises as :meth:`batches`."""
        numbers = [self.clips.index(clip) if isinstance(clip, str) else clip for clip in clips]
        with closing(self.batches([numbers], layers=layers, device=self.extractor.device)) as batches:
            return next(batches)

    def batches(
        self,
        order: Iterable[Sequence[int]],
        *,
        layers: Sequence[str] | None = None,
        threads: int = 0,
        depth: int = 0,
        device: str | torch.device = "cpu",
    ) -> Generator[TokenBatch, None, None]:
        """Batches in the given order, computed ahead; ``threads`` and ``depth`` are for stores.

        When clips fail, those that are left are computed before it is said, so that all that fail are known.

        Raises
        ------
        ClipsFailedError
            Clips of ``order`` cannot be computed, and may be left out.
        DatasetError
            They may not.
        EveryClipFailsError
            None can.
        MachineError
            The machine or its device is at an end.
        """
        ours, theirs = tee(map(tuple, order))
        extractor = replace(self._reading(layers), codes_on=str(device))
        static = self._static_on(str(device), tuple(layer.name for layer in extractor.layers))
        ready: dict[Wanted, Codes] = {}
        with closing(compute_clips(extractor, theirs)) as results:
            for number, clips in enumerate(ours):
                began = time.perf_counter()
                while not all(Wanted(number, clip) in ready for clip in clips):
                    self._receive(extractor, next(results), ready, results)
                codes = {clip: ready.pop(Wanted(number, clip)) for clip in dict.fromkeys(clips)}
                batch = stack_clips(clips, codes, static)
                self.clock.waiting += time.perf_counter() - began
                began = time.perf_counter()
                yield batch
                self.clock.using += time.perf_counter() - began

    def close(self) -> None:
        """Say how the time was spent."""
        if self.clock.clips:
            self.progress.note(self.clock.describe())

    def _reading(self, names: Sequence[str] | None) -> Extractor:
        """The extractor of these layers alone."""
        layers = tuple(layer for layer in self.layers if names is None or layer.name in names)
        read = {layer.modality for layer in layers}
        backbones = tuple(backbone for backbone in self.extractor.backbones if backbone.modality in read)
        return replace(self.extractor, layers=layers, backbones=backbones)

    def _static_on(self, device: str, names: Sequence[str]) -> StaticArrays:
        return {
            name: {part: array.to(device) for part, array in self.static[name].items()}
            for name in names
            if name in self.static
        }

    def _receive(
        self, extractor: Extractor, computed: Computed, ready: dict[Wanted, Codes], rest: Iterable[Computed]
    ) -> None:
        """Keep what was computed; raises as :meth:`batches` where it is a failure, of which ``rest`` may hold more."""
        reason = self._failure(extractor, computed)
        if reason is None and not isinstance(computed.codes, MediaError):
            ready[computed.wanted] = computed.codes
            self._count(computed)
            return
        failed: dict[str, str] = {}
        for each in chain([computed], rest):
            reason = self._failure(extractor, each)
            if reason is None:
                self._count(each)
            elif self.clips[each.wanted.clip] not in failed:
                failed[self.clips[each.wanted.clip]] = reason
                self.clock.failed += 1
                self.progress.note(f"clip {self.clips[each.wanted.clip]} cannot be computed: {reason}")
            if self.clock.only_failures:
                break
        raise self._refusal(failed)

    def _count(self, computed: Computed) -> None:
        """A clip has its codes."""
        self.clock.clips += 1

    def without(self, failed: Mapping[str, str]) -> Self:
        """The same without these clips."""
        return replace(self, failed={**self.failed, **failed})

    def _failure(self, extractor: Extractor, computed: Computed) -> str | None:
        """Why a clip has no tokens that a store could hold, if it has none."""
        if isinstance(computed.codes, MediaError):
            return extractor.describe(computed.codes)
        try:
            check_tokens(computed.codes, self._layout(extractor), self.clips[computed.wanted.clip])
        except TokensError as error:
            return error.message
        return None

    def _layout(self, extractor: Extractor) -> Sequence[ArrayLayout]:
        return store_layout(extractor.layers, self.segments, extractor.codec, clips=1, clips_each=1)

    def _refusal(self, failed: Mapping[str, str]) -> MettleError:
        lines = [f"{clip}: {reason}" for clip, reason in list(failed.items())[:LISTED]]
        rest = [f"... and {len(failed) - LISTED} more"] if len(failed) > LISTED else []
        if self.clock.only_failures:
            what = f"none of the first {count(self.clock.failed, 'clip')} could be computed:"
            return EveryClipFailsError("\n  - ".join((what, *lines, *rest)), hint="mend what they share")
        if not self.skip_missing:
            what = f"{count(len(failed), 'clip')} of {self.extractor.dataset.root} cannot be computed:"
            return DatasetError("\n  - ".join((what, *lines, *rest)), hint=MEND)
        return ClipsFailedError(
            f"{count(len(failed), 'clip')} cannot be computed: {'; '.join([*lines, *rest])}",
            failed=failed,
            rest=self.without(failed),
            hint=MEND,
        )


def stack_clips(clips: Sequence[int], codes: Mapping[int, Codes], static: StaticArrays) -> TokenBatch:
    """Clips ``[T, N, *]`` as a batch ``[B, T, N, *]``, in new memory that a graph may hold on to.

    The layers are those of the first clip; ``static`` are the codec's arrays where the codes are.
    """
    layers: dict[str, LayerTokens] = {}
    for name in codes[clips[0]]:
        stacked = stack_tokens([codes[clip][name] for clip in clips])
        layers[name] = replace(stacked, static=static.get(name, {}))
    return TokenBatch(layers, tuple(clips))
