"""Another codec for a store that is there, without media and backbones.

The new store has the same clips, annotations and layers. Its key says what it was recoded from: its bytes are not quite
those of an extraction, whose tokens were never rounded before. With the codec that the store has already it is a copy,
in the format that this version writes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from mettle_cache.devices import available_cores, one_thread
from mettle_cache.errors import TokensError, UsageError
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.pipelines.in_order import in_order
from mettle_cache.pipelines.places import is_store
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.pipelines.read_back import read_back
from mettle_cache.pipelines.recode.config import RecodeConfig, RecodeReport
from mettle_cache.pipelines.room import check_room
from mettle_cache.pipelines.signals import InterruptedRunError, stop_on_signals
from mettle_cache.pipelines.static_arrays import ArraysWanted, static_arrays
from mettle_cache.samples import training_clips
from mettle_cache.store.companions import copy_companions
from mettle_cache.store.format.codecs import Codec, Pilot, StaticArrays, codec_version, encode_layers, get_codec
from mettle_cache.store.format.layout import bytes_per_clip
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.lifecycle import refuse_foreign
from mettle_cache.store.writing.writer import StoreReport, StoreWriter

if TYPE_CHECKING:
    from torch import Tensor

    from mettle_cache.layers import LayerSpec
    from mettle_cache.tokens import LayerTokens

SOURCES = ("float16", "int8")
"""Codecs that may be recoded into others: what they have lost is small beside what the others lose."""
RECODED = "recoded"
"""The field of the key, within the part of the extraction: the codecs that the tokens went through before."""
RESUME = "run the same command again: it goes on where this run stopped"
POLL_SECONDS = 0.1


def recode(config: RecodeConfig, progress: Progress | None = None) -> RecodeReport:
    """Write the tokens of a store in another codec into a new store.

    Called again it resumes what an earlier call left, and the bytes are those of one call. Every byte that is read is
    compared with its checksum. Clips that were extracted again since an earlier call are recoded again::

        recode(RecodeConfig(store=Path("ave.zarr"), codec="klt1.5", out=Path("ave-klt1.5.zarr")))

    Raises
    ------
    UsageError
        An unknown codec, one that the store cannot be recoded into, or a place that cannot be.
    StoreMissingError, StoreUnfinishedError, StoreCorruptError
        There is no store, or it is not finished, or damaged; what is committed stays.
    StoreKeyError
        Another store lies at ``out``.
    StoreBusyError
        Another process recodes the same part.
    NoRoomError
        The disk cannot hold, or could not hold, what is to be written; what is committed stays.
    InterruptedRunError
        SIGINT or SIGTERM; what is committed stays.
    """
    progress = progress or Silent()
    config.check()
    try:
        with TokenStore.open(config.store, check="always") as store, one_thread(torch.device("cpu")):
            # several clips at once, each on one thread
            return _recode(_Recoding(config, store), progress)
    except KeyboardInterrupt:
        raise InterruptedRunError(f"stopped before {config.out} was finished", hint=RESUME) from None


class _Recoding:
    """What a recoding reads and what it writes."""

    def __init__(self, config: RecodeConfig, store: TokenStore) -> None:
        self.config, self.store = config, store
        self.codec: Codec = get_codec(config.choice.name)
        self.is_copy = self.codec.name == store.codec
        if not self.is_copy and store.codec not in SOURCES:
            raise UsageError(
                f"{store.path} is in {store.codec}, which has lost too much to be made {self.codec.name} of",
                hint=f"recode the store that it was made from, or extract anew; {' and '.join(SOURCES)} can be recoded",
            )
        self.layers: tuple[LayerSpec, ...] = (
            store.layers if self.is_copy else cells_for(self.codec, store.dataset, store.layers)
        )
        self.threads = available_cores()

    @contextmanager
    def static_arrays(self, progress: Progress) -> Iterator[StaticArrays]:
        """Those of the new store; see :func:`mettle_cache.pipelines.static_arrays.static_arrays`."""
        if self.is_copy and self.config.choice.store is None:
            yield self.store.static
            return
        wanted = ArraysWanted(
            codec=self.codec,
            layers=self.layers,
            segments=self.store.segments,
            out=self.config.out,
            source=self.config.choice.store,
        )
        with static_arrays(wanted, partial(self._run_pilot, progress), progress) as static:
            if self.is_copy and not _equal_arrays(static, self.store.static):
                raise UsageError(
                    f"the codes of {self.store.path} mean nothing with the static arrays of {self.config.choice.store}",
                    hint=f"write --codec {self.codec.name} for a copy, or recode the store that it was made from",
                )
            yield static

    def spec(self, static: StaticArrays) -> StoreSpec:
        """The specification of the new store."""
        store, key, provenance = self.store, dict(self.store.key["extraction"]), dict(self.store.provenance)
        encoder = store.key.get("codec_version", 1)
        if self.is_copy and encoder != codec_version(self.codec):
            # codes of an earlier encoder: an extraction must not put those of today's beside them
            key[RECODED] = [*key.get(RECODED, []), f"{store.codec}, version {encoder}"]
        if not self.is_copy:
            key[RECODED] = [*key.get(RECODED, []), store.codec]
            steps = [provenance[RECODED]] if RECODED in provenance else []
            steps.append(f"from {store.codec} by mettle recode --codec {self.config.choice.portable}")
            provenance |= {RECODED: "; ".join(steps), "mettle-cache": version("mettle-cache")}
        return StoreSpec(
            dataset=store.dataset,
            segments=store.segments,
            layers=self.layers,
            codec=self.codec.name,
            clips=store.clips,
            samples=store.samples,
            vocabulary=store.vocabulary,
            key=key,
            provenance=provenance,
            # a copy is the store that an extraction goes on with
            clips_per_shard=self.config.clips_per_shard or (store.key.get("clips_per_shard") if self.is_copy else None),
            static=static,
        )

    def encode(self, clip: int, static: StaticArrays) -> dict[str, LayerTokens]:
        """A clip's tokens in the new codec, layer by layer: one layer at a time is floats."""
        tokens = self.store[clip]
        if self.is_copy:
            return dict(tokens)
        encoded: dict[str, LayerTokens] = {}
        for name, layer in tokens.items():
            encoded |= encode_layers({name: layer.floats()}, self.codec, self.layers, static)
        return encoded

    def _run_pilot(self, progress: Progress, pilot: Pilot) -> StaticArrays:
        """Show the pilot frames of training clips, as they are stored."""
        store = self.store
        readable = [index for index in training_clips(store.clips, store.samples) if store.statuses[index] == "ok"]
        chosen = pilot.choose([store.clips[index] for index in readable], store.segments)

        def look(choice: tuple[int, tuple[int, ...]]) -> list[dict[str, Tensor]]:
            clip = store[readable[choice[0]]]
            return [{name: x[segment : segment + 1].floats() for name, x in clip.items()} for segment in choice[1]]

        shown = 0
        progress.start(pilot.wanted, "frames", f"look at frames for codec {self.codec.name}")
        try:
            with closing(in_order(look, chosen, self.threads)) as looks:
                while shown < pilot.wanted and (frames := next(looks, None)) is not None:
                    for tokens in frames:
                        pilot.add(tokens)
                    shown += len(frames)
                    progress.advance(len(frames))
        finally:
            progress.finish()
        return pilot.finish()


def _equal_arrays(ours: StaticArrays, theirs: StaticArrays) -> bool:
    shapes = [{name: [*arrays] for name, arrays in static.items()} for static in (ours, theirs)]
    return shapes[0] == shapes[1] and all(
        array.equal(theirs[name][part]) for name, arrays in ours.items() for part, array in arrays.items()
    )


def _recode(recoding: _Recoding, progress: Progress) -> RecodeReport:
    """Make or resume the new store, fill this part of it, and finish it where no clip is left."""
    config, store = recoding.config, recoding.store
    if not is_store(config.out):
        refuse_foreign(config.out)  # before the pilot, which takes minutes
    with recoding.static_arrays(progress) as static:
        writer = StoreWriter.create_or_resume(config.out, recoding.spec(static))
    started = time.perf_counter()
    with writer:
        for note in copy_companions(store.companions, writer.path, writer.metadata.record.key_digest):
            progress.note(f"left out: {note}")
        pending = _pending(recoding, writer, progress)
        outcome = _Outcome()
        work = [index for index in pending if store.statuses[index] == "ok"]
        check_room(
            config.out, len(work) * sum(bytes_per_clip(recoding.layers, store.segments, recoding.codec).values())
        )
        for index in sorted({*pending} - {*work}):
            writer.fail_clip(index, store.failed[store.clips[index]])
        if work:
            _recode_clips(recoding, writer, work, static, outcome, progress)
        skipped = len(writer.clips_of(config.part)) - len(pending)
        return outcome.report(recoding, writer.finish(), skipped, time.perf_counter() - started)


def _pending(recoding: _Recoding, writer: StoreWriter, progress: Progress) -> list[int]:
    """Clips of this part that are still to be written: those of other media than the store's now are, too."""
    part, made_of = recoding.config.part, recoding.store.made_of
    stale = {index: source for index, source in writer.made_of().items() if made_of.get(index) != source}
    lacking = writer.pending(part, compare=False)
    if stale:
        progress.note(f"clips that were extracted again since, and that are recoded again: {len(stale)}")
        writer.forget(stale)
    damaged = [] if writer.sealed else read_back(writer, writer.unread(part), progress)
    mine = writer.clips_of(part)
    return sorted({*lacking, *damaged, *(index for index in stale if index in mine)})


@dataclass
class _Outcome:
    """Counts what becomes of the clips of a run."""

    written: int = 0
    nbytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, index: int, result: int | TokensError, writer: StoreWriter, progress: Progress) -> None:
        """Bytes that were written of a clip, or why the new codec cannot hold it."""
        if isinstance(result, TokensError):
            clip = writer.clips[index]
            writer.fail_clip(index, result.message)
            self.failures[clip] = result.message
            progress.note(f"clip {clip} cannot be recoded: {result.message}")
            progress.advance()
        else:
            self.written += 1
            self.nbytes += result
            progress.advance(1, nbytes=result)

    def report(self, recoding: _Recoding, new: StoreReport, skipped: int, seconds: float) -> RecodeReport:
        return RecodeReport(
            store=recoding.config.out,
            source=recoding.store.path,
            source_codec=recoding.store.codec,
            codec=recoding.codec.name,
            clips=new.clips + new.failed + new.pending,
            written=self.written,
            skipped=skipped,
            failed=new.failed,
            pending=new.pending,
            nbytes=self.nbytes,
            seconds=seconds,
            failures=self.failures,
        )


def _recode_clips(
    recoding: _Recoding,
    writer: StoreWriter,
    work: Sequence[int],
    static: StaticArrays,
    outcome: _Outcome,
    progress: Progress,
) -> None:
    """Recode clips in threads; stops cleanly on a signal.

    Raises
    ------
    StoreError
        The source is damaged, or the new store cannot be written.
    """

    def one(index: int) -> tuple[int, int | TokensError]:
        try:
            tokens = recoding.encode(index, static)
            return index, writer.write_clip(index, tokens, source=recoding.store.made_of[index])
        except TokensError as error:
            return index, error

    waiting, under_way = deque(work), set[Future[tuple[int, int | TokensError]]]()
    progress.start(len(work), "clips", f"recode {recoding.store.codec} to {recoding.codec.name}")
    stopping = stop_on_signals("stopping; the clips that are being written are finished, once more ends it at once")
    with stopping as stop, ThreadPoolExecutor(recoding.threads, "recode") as pool:
        while under_way or (waiting and not stop.is_set()):
            while waiting and len(under_way) < 2 * recoding.threads and not stop.is_set():
                under_way.add(pool.submit(one, waiting.popleft()))
            done, under_way = wait(under_way, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                outcome.add(*future.result(), writer, progress)
    progress.finish()
    if waiting:
        raise InterruptedRunError(
            f"stopped with {len(waiting)} clips to go; the {outcome.written} written by this run are safe in "
            f"{writer.path}",
            hint=RESUME,
        )
