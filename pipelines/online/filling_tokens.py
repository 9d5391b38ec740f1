"""Tokens of a data set that are computed once: into a store, which is read from then on."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import torch

from mettle_cache.errors import MediaError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.online.filling import Filling, Step, plan_steps
from mettle_cache.pipelines.online.passes import Computed, Wanted, compute_clips
from mettle_cache.pipelines.online.tokens import OnlineTokens, stack_clips
from mettle_cache.pipelines.report.units import count
from mettle_cache.store.reading.disk_speed import READS_AHEAD
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.tokens import TokenBatch

FILL = "fill"


@dataclass(frozen=True, eq=False, kw_only=True)
class FillingTokens(OnlineTokens):
    """As :class:`OnlineTokens`; what is computed is written to a store, and what that has is read."""

    filling: Filling

    @property
    def computed(self) -> Mapping[str, Any]:
        return {**super().computed, FILL: str(self.path.resolve())}

    def batches(
        self,
        order: Iterable[Sequence[int]],
        *,
        layers: Sequence[str] | None = None,
        threads: int = READS_AHEAD,
        depth: int = 2,
        device: str | torch.device = "cpu",
    ) -> Generator[TokenBatch, None, None]:
        """Batches in the given order, which ends; raises as those of :class:`OnlineTokens` and of a store."""
        batches = [tuple(clips) for clips in order]
        self.filling.settle()
        store = self.filling.reader(anew=self.filling.has_grown)
        stored = {clip for clip, status in enumerate(store.statuses) if status == "ok"}
        steps = plan_steps(batches, stored)
        options: dict[str, Any] = {"threads": threads, "depth": depth, "device": device}
        if not any(step.compute for step in steps):
            yield from store.batches(batches, layers=layers, **options)
            return
        names = store.layer_names(layers)
        with closing(self._mixed(batches, steps, names)) as mixed:
            for batch in mixed:
                began = time.perf_counter()
                yield batch.to(device)
                self.clock.using += time.perf_counter() - began

    def _mixed(
        self, batches: Sequence[Sequence[int]], steps: Sequence[Step], names: Sequence[str]
    ) -> Generator[TokenBatch, None, None]:
        """Batches of clips that are computed and written, and of clips that are read, on the CPU."""
        extractor, ready = self.extractor, dict[Wanted, Codes]()
        store = self.filling.reader(anew=False)
        with closing(compute_clips(extractor, [step.compute for step in steps])) as results:
            for number, (clips, step) in enumerate(zip(batches, steps, strict=True)):
                began = time.perf_counter()
                while not all(Wanted(number, clip) in ready for clip in step.compute):
                    self._receive(extractor, next(results), ready, results)
                if step.reopen:
                    self.filling.settle()
                    store = self.filling.reader(anew=True)
                codes = _read(store, step.read, names)
                for clip in step.compute:
                    whole = ready.pop(Wanted(number, clip))
                    codes[clip] = {name: whole[name] for name in names}
                batch = stack_clips(clips, codes, self.static)
                self.clock.waiting += time.perf_counter() - began
                yield batch
        self.filling.settle()

    def without(self, failed: Mapping[str, str]) -> Self:
        self.filling.leave_out(failed)
        return super().without(failed)

    def close(self) -> None:
        """Give the store up, and say what it lacks."""
        super().close()
        report = self.filling.close()
        if report is None:
            return
        if report.finished:
            self.progress.note(
                f"store {self.path} is finished; read it with: {command_line('mettle train --from-cache', self.path)}"
            )
            return
        self.progress.note(
            f"store {self.path} has {count(report.clips, 'clip')}; it lacks {report.pending}, which training does not "
            f"touch or did not come to. This adds them: {command_line('mettle extract', *self.recipe['options'])}"
        )

    def _count(self, computed: Computed) -> None:
        super()._count(computed)
        if computed.prepared is not None and not isinstance(computed.codes, MediaError):
            self.filling.add(computed.wanted.clip, computed.codes, computed.prepared)


def _read(store: TokenStore, clips: Sequence[int], names: Sequence[str]) -> dict[int, Codes]:
    """Codes ``[T, N, *]`` of clips by layer name, in new memory."""
    if not clips:
        return {}
    batch = store.read(clips, names)
    return {clip: {name: batch.layers[name][place] for name in names} for place, clip in enumerate(clips)}
