"""A sweep's rows as recipes for one store, and which of them that store cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mettle_cache.errors import ConfigError, MettleError, UsageError
from mettle_cache.layers import select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.paths import command_line
from mettle_cache.pipelines.sweeps.sweep_file import Sweep, SweepRow, keys_of
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store.reading.token_store import TokenStore


@dataclass(frozen=True)
class PlannedRow:
    """A row with the recipe that it trains."""

    row: SweepRow
    recipe: Recipe


def plan_rows(
    sweep: Sweep,
    store: TokenStore,
    recipe: str,
    *,
    common: Sequence[str] = (),
    only: Sequence[str] = (),
) -> list[PlannedRow]:
    """The rows to train on a store, in the file's order.

    Every row's model is built without memory for its parameters, so that what a store cannot have is known before
    anything runs.

    Parameters
    ----------
    recipe
        The recipe that the rows change.
    common
        Overrides of all rows, ``key=value`` each.
    only
        The names of the rows to train; all where there are none.

    Raises
    ------
    UsageError
        The sweep is for other tasks, has no row of such a name, or has rows that are not possible on this store.
    ConfigError
        What is wrong with the recipe or the common overrides.
    """
    load_recipe(recipe, list(common))  # what is wrong with them is no row's fault
    base = load_recipe(recipe)
    keys = keys_of(store.dataset, base.task)
    rows = _choose(sweep, keys, only)
    planned: list[PlannedRow] = []
    refused: list[tuple[SweepRow, MettleError]] = []
    for row in rows:
        try:
            planned.append(_plan(row, store, recipe, keys, common))
        except MettleError as error:
            refused.append((row, error))
    if refused:
        reasons = [f"\n  {row.name}: {_reason(error)}" for row, error in refused]
        raise UsageError(
            f"{sweep.name}: {len(refused)} of {len(rows)} rows are not possible on {store.path}:{''.join(reasons)}",
            hint=_what_helps(planned),
        )
    return planned


def _reason(error: MettleError) -> str:
    """Why a row is refused, and what would help it."""
    if isinstance(error, ConfigError):
        return "; ".join(error.problems)
    if isinstance(error, _LayersMissingError):
        return f"{error.message} (extract with --layers all, or with {error.layers} too)"
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _what_helps(possible: Sequence[PlannedRow]) -> str:
    """How to go on without the rows that are refused; each row's own reason says what it would take."""
    if not possible:
        return "each row says what it would take"
    return f"leave them out: {command_line('--rows', ','.join(one.row.name for one in possible))}"


class _LayersMissingError(UsageError):
    """The store lacks layers that a row reads: the ``layers`` of its recipe."""

    def __init__(self, message: str, layers: str) -> None:
        super().__init__(message)
        self.layers = layers


def _choose(sweep: Sweep, keys: Sequence[str], only: Sequence[str]) -> list[SweepRow]:
    rows = sweep.rows_for(keys)
    unknown = [name for name in only if name not in [row.name for row in rows]]
    if unknown:
        raise UsageError(
            f"--rows: {sweep.name} has no row called {', '.join(unknown)}",
            hint=f"its rows for this store: {', '.join(row.name for row in rows)}",
        )
    return [row for row in rows if not only or row.name in only]


def _plan(row: SweepRow, store: TokenStore, recipe: str, keys: Sequence[str], common: Sequence[str]) -> PlannedRow:
    overrides = row.overrides_on(keys)
    both = {_key(override) for override in overrides} & {_key(override) for override in common}
    if both:
        raise UsageError(f"it sets {', '.join(sorted(both))} itself, which --set would change")
    changed = load_recipe(recipe, [*common, *overrides])
    try:
        select_layers(store.layers, changed.layers)
    except UsageError as error:
        raise _LayersMissingError(error.message, changed.layers) from error
    task = bind_task(changed, store)
    with on_meta():
        task.build_model()
    return PlannedRow(row, changed)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
