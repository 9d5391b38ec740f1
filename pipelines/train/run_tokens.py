"""The tokens of a trained run: its store, or where there is none what computed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mettle_cache.errors import StoreMissingError, StoreUnfinishedError
from mettle_cache.pipelines.progress import Progress

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.run_config import RunConfig
    from mettle_cache.store.reading.token_source import TokenSource
    from mettle_cache.store.reading.token_store import TokenStore

# stage two loads no backbone; this does, for the runs that had no store
_COMPUTING = "mettle_cache.pipelines.online.reopening"


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """How to compute the tokens of a run that had no store: on which ``device``, from a data set that moved to
    ``root``, with weights that the user names by modality. ``resuming`` a training, tokens must be what they were.
    """

    device: str | None = None
    root: Path | None = None
    weights: Mapping[str, str | None] = field(default_factory=dict)
    resuming: bool = False


def open_tokens(
    run: Path,
    config: RunConfig,
    options: TokenOptions,
    progress: Progress,
    *,
    instead: Path | TokenStore | None = None,
    option: str = "--store",
) -> TokenSource:
    """The store of the run whose record is ``config``, or ``instead`` in its place; without one its backbones.

    Raises
    ------
    StoreMissingError, RunError
        As :meth:`StoreReference.open <mettle_cache.pipelines.train.run_config.StoreReference.open>`; or the data set or
        the weights are not where they were, or others.
    """
    reference = config.store
    if reference.computed is None or instead is not None:
        return reference.open(run, instead=instead, option=option)
    try:
        store = reference.open(run)
    except (StoreMissingError, StoreUnfinishedError):
        return cast("TokenSource", import_module(_COMPUTING).reopen(run, config, options, progress))
    progress.note(f"the run had no store; {store.path} holds its tokens by now and is read")
    return store
