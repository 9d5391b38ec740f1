"""Making companions: every clip of a store is read once, pooled for all of them, and written into each.

A companion is a store of its own, so that it is resumed, claimed and finished as one. Its key says which tokens it was
made of, as they decode: of a codec that loses something, the maxima are those of what is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import torch

from mettle_cache.devices import available_cores, one_thread
from mettle_cache.errors import NoRoomError, StoreCorruptError, StoreError, StoreKeyError, TokensError
from mettle_cache.methods.pooled import pool_tokens
from mettle_cache.pipelines.companions.pooled_table import POOLED_CODEC, PooledTable
from mettle_cache.pipelines.in_order import in_order
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.read_back import read_back
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.room import check_room
from mettle_cache.pipelines.signals import InterruptedRunError, stop_on_signals
from mettle_cache.samples import CLIP
from mettle_cache.store.companion_stores import POOLED
from mettle_cache.store.format.codecs import encode_layers, get_codec
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import LayerTokens

# what a companion is called while it is removed
REMOVED = ".removed"
_WHAT = {"mean": "means", "max": "maxima"}


class NotMadeError(StoreError):
    """A companion cannot be written where it belongs; nothing is wrong with the store."""


def pooled_spec(store: TokenStore, table: PooledTable) -> StoreSpec:
    """The specification of a companion. The samples are those of the store, and not repeated."""
    origin = {
        "how": table.how,
        "grid": list(table.grid),
        "codec": store.codec,
        "store": store.key_digest,
        "content": store.content_digest,
    }
    return StoreSpec(
        dataset=store.dataset,
        segments=store.segments,
        layers=table.layers,
        codec=POOLED_CODEC,
        clips=store.clips,
        samples=pa.table({CLIP: pa.array([], pa.string())}),
        key={POOLED: origin},
        provenance={
            POOLED: f"{_WHAT[table.how]} of the tokens as they decode from {store.codec}",
            "mettle-cache": version("mettle-cache"),
        },
    )


def make_companions(store: TokenStore, folder: Path, tables: Sequence[PooledTable], progress: Progress) -> None:
    """Make or resume companions in ``folder``, whose lock the caller holds.

    What lies at their names and was made of other tokens is removed. A clip that has failed in the store fails in them
    too; so does one whose pooled tokens float16 cannot hold.

    Raises
    ------
    NotMadeError
        They cannot be written. Where the disk is full, nothing is left of what was begun.
    StoreError
        The store is damaged; what was pooled stays.
    InterruptedRunError
        SIGINT or SIGTERM; what was pooled stays.
    """
    paths = [folder / table.name for table in tables]
    try:
        with ExitStack() as held, one_thread(torch.device("cpu")):
            # several clips at once, each on one thread
            making = [
                _Making.begin(store, table, path, held, progress) for table, path in zip(tables, paths, strict=True)
            ]
            _announce(folder, making, store, progress)
            _pool_clips(store, making, progress)
            for each in making:
                with _not_made():
                    each.writer.finish()
    except NoRoomError as error:
        for path in paths:
            remove_companion(path)
        raise NotMadeError(error.message) from error


def remove_companion(path: Path) -> None:
    """Remove a companion: in one moment for all who look for it, and in the end even where this is stopped."""
    removed = path.with_name(REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        os.replace(path, removed)
        shutil.rmtree(removed)


@dataclass(frozen=True)
class _Making:
    """A companion that is being made, and the clips that it lacks."""

    table: PooledTable
    writer: StoreWriter
    pending: frozenset[int]

    @classmethod
    def begin(cls, store: TokenStore, table: PooledTable, path: Path, held: ExitStack, progress: Progress) -> _Making:
        """Claim it for as long as ``held`` is, make or resume it, and take note of the clips that have no tokens."""
        spec = pooled_spec(store, table)
        with _not_made():
            if path.is_symlink():
                remove_companion(path)
            try:
                writer = StoreWriter.create_or_resume(path, spec)
            except (StoreKeyError, StoreCorruptError):
                progress.note(f"{path} is damaged, or of other tokens than the store's now: it is made anew")
                remove_companion(path)
                writer = StoreWriter.create_or_resume(path, spec)
            held.enter_context(writer)
            lacking = writer.pending(compare=False)
            damaged = [] if writer.sealed else read_back(writer, writer.unread(), progress)
            pending = frozenset({*lacking, *damaged})
            for clip in sorted(pending):
                if store.statuses[clip] != "ok":
                    writer.fail_clip(clip, store.failed[store.clips[clip]])
        return cls(table, writer, frozenset(clip for clip in pending if store.statuses[clip] == "ok"))

    def encode(self, tokens: Mapping[str, LayerTokens]) -> dict[str, LayerTokens] | TokensError:
        """One clip's pooled tokens, from the layers' own ``[1, T, N, D]``, or why they cannot be held."""
        floats = {each.layer.name: pool_tokens(tokens[each.layer.name], each)[0] for each in self.table.pooled}
        try:
            return encode_layers(floats, get_codec(POOLED_CODEC))
        except TokensError as error:
            return error

    def write(self, clip: int, encoded: dict[str, LayerTokens] | TokensError, source: str) -> int:
        """Write what :meth:`encode` gave; the bytes that were written."""
        with _not_made():
            if not isinstance(encoded, TokensError):
                return self.writer.write_clip(clip, encoded, source=source)
            self.writer.fail_clip(clip, encoded.message)
            return 0


def _announce(folder: Path, making: Sequence[_Making], store: TokenStore, progress: Progress) -> None:
    """Say what is about to be written. Raises NoRoomError where the disk cannot hold it."""
    needed = sum(len(each.pending) * each.table.clip_bytes(store.segments) for each in making)
    if needed:
        layers = sum(len(each.table.pooled) for each in making)
        progress.note(
            f"{layers} layers are read on coarser grids: they are pooled once and kept in {folder}, "
            f"{format_bytes(needed)}"
        )
        check_room(folder, needed)


def _pool_clips(store: TokenStore, making: Sequence[_Making], progress: Progress) -> None:
    """Pool the clips that are lacking in threads, and write them one by one; stops cleanly on a signal."""
    read = {each.layer.name for one in making for each in one.table.pooled}
    names = [layer.name for layer in store.layers if layer.name in read]
    work = sorted({clip for each in making for clip in each.pending})
    if not work:
        return

    def pool(clip: int) -> list[tuple[_Making, dict[str, LayerTokens] | TokensError]]:
        tokens = store.read([clip], names).layers
        return [(each, each.encode(tokens)) for each in making if clip in each.pending]

    progress.start(len(work), "clips", "pool tokens")
    stopping = stop_on_signals("stopping; the clip that is being written is finished, once more ends it at once")
    try:
        with stopping as stop, closing(in_order(pool, work, available_cores())) as pooled:
            for done, (clip, outcomes) in enumerate(zip(work, pooled, strict=True), 1):
                written = sum(each.write(clip, encoded, store.made_of[clip]) for each, encoded in outcomes)
                progress.advance(1, nbytes=written)
                if stop.is_set() and done < len(work):
                    raise InterruptedRunError(
                        f"stopped with {len(work) - done} clips to pool; what was pooled is kept beside {store.path}",
                        hint="run the same command again: it goes on where this one stopped",
                    )
    finally:
        progress.finish()


@contextmanager
def _not_made() -> Iterator[None]:
    """Tell what writing raises from what reading the store raises; a full disk stays what it is."""
    try:
        yield
    except NoRoomError:
        raise
    except (StoreError, OSError) as error:
        raise NotMadeError(getattr(error, "message", str(error))) from error
