"""The pooled grids that heads read in the place of whole layers: found beside the store, or made there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mettle_cache.errors import StoreError
from mettle_cache.methods.pooled import PooledLayer
from mettle_cache.pipelines.companions.making import NotMadeError, make_companions
from mettle_cache.pipelines.companions.pooled_table import PooledTable, pooled_tables
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.companion_stores import pooled_from
from mettle_cache.store.reading.token_source import TokenSource
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.durable import make_folder
from mettle_cache.store.writing.locks import companions_lock


@dataclass(frozen=True)
class PooledGrids:
    """A companion that is open, and what is read of it."""

    store: TokenStore
    table: PooledTable

    @cached_property
    def names(self) -> Mapping[str, str]:
        """What a batch calls each layer (``mean/visual/s1b01``), by its name in the companion."""
        return {each.layer.name: each.name for each in self.table.pooled}


def pooled_grids(store: TokenSource, pooled: Iterable[PooledLayer], progress: Progress) -> tuple[PooledGrids, ...]:
    """The companions that have ``pooled``; those that lack are made first.

    Where they cannot be, that is said, and they are left out: whoever wants them pools whole layers.

    Raises
    ------
    StoreError
        The store is damaged, which pooling shows.
    InterruptedRunError
        SIGINT or SIGTERM while they are made; what was pooled stays.
    """
    tables = pooled_tables(store.layers, pooled)
    if not tables:
        return ()
    if not isinstance(store, TokenStore) or (folder := store.companion_folder) is None:
        progress.note(f"{store.path} takes nothing beside it: layers are pooled whenever they are read")
        return ()
    found = [find_grids(store, folder, table) for table in tables]
    if None in found:
        try:
            _make_those_that_lack(store, folder, tables, progress)
        except NotMadeError as error:
            progress.note(f"layers are pooled whenever they are read: {error.message}")
        found = [one or find_grids(store, folder, table) for one, table in zip(found, tables, strict=True)]
    return tuple(grids for grids in found if grids is not None)


def find_grids(store: TokenStore, folder: Path, table: PooledTable) -> PooledGrids | None:
    """The companion with these layers, or with more; None where there is no finished one of the store's tokens."""
    if folder.is_symlink():
        return None
    for path in sorted(folder.glob(f"{table.stem}-*")):
        with suppress(StoreError):
            companion = TokenStore.open(path)
            of_these = pooled_from(companion.key["extraction"]) == (store.key_digest, store.content_digest)
            # a clip that is lacking here alone would stop whoever reads it
            whole = (companion.clips, companion.statuses) == (store.clips, store.statuses)
            if of_these and whole and set(table.layers) <= set(companion.layers):
                return PooledGrids(companion, table)
    return None


def _make_those_that_lack(store: TokenStore, folder: Path, tables: Sequence[PooledTable], progress: Progress) -> None:
    """Make them while nobody else does. Raises as :func:`make_companions`."""
    if folder.is_symlink():
        raise NotMadeError(f"{folder} is a link; a store holds its own files")
    with ExitStack() as held:
        try:
            make_folder(folder)
            waiting = f"{folder} is being written by another process: waiting for it"
            held.enter_context(companions_lock(folder, lambda: progress.note(waiting)))
        except (StoreError, NotImplementedError) as error:
            # filelock raises the latter where the file system has no locks
            raise NotMadeError(getattr(error, "message", str(error))) from error
        # another process may have made some of them meanwhile
        lacking = [table for table in tables if not find_grids(store, folder, table)]
        if lacking:
            make_companions(store, folder, lacking, progress)
