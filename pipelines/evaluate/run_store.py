"""The store that a run was trained from: opened where it is now, refused if it is another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import RunError, StoreMissingError
from mettle_cache.pipelines.train.binding import open_store
from mettle_cache.pipelines.train.run_folder import RunConfig

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


def open_run_store(config: RunConfig, store: Path | TokenStore | None, run: Path) -> TokenStore:
    """The store that ``config`` remembers, or ``store`` in its place; ``run`` is for the messages.

    Raises
    ------
    StoreMissingError
        There is none.
    RunError
        Its key is not that of the store which the run was trained from: its tokens would mean something else.
    """
    wanted: Path | TokenStore = Path(config.store.path) if store is None else store
    try:
        opened = open_store(wanted)
    except StoreMissingError as error:
        raise StoreMissingError(
            f"{run}: its store is not at {wanted}", hint="name the store's new place with --store"
        ) from error
    if opened.key_digest != config.store.key_digest:
        raise RunError(
            f"{run}: trained from a store with key {config.store.key_digest}; {opened.path} has {opened.key_digest}",
            hint="use the run's own store, or train again from this one",
        )
    return opened
