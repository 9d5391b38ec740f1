"""Where a codec's static arrays come from: the store itself, another store, or a pilot that nobody else runs.

Most codecs have none. The arrays are in a store before its first clip, and their digests in its key; so whoever writes
clips later takes them from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mettle_cache.errors import StoreError, StoreMissingError, UsageError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.places import require_store
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.format.codecs import NO_STATIC, Codec, Pilot, StaticArrays
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.format.static import find_static
from mettle_cache.store.writing.pilot_lock import pilot_lock

if TYPE_CHECKING:
    from mettle_cache.layers import LayerSpec


@dataclass(frozen=True, kw_only=True)
class ArraysWanted:
    """What a store at ``out`` is to be made of; ``source`` is the store whose static arrays it is to have, if any."""

    codec: Codec
    layers: tuple[LayerSpec, ...]
    segments: int
    out: Path
    source: Path | None = None


@contextmanager
def static_arrays(
    wanted: ArraysWanted, run_pilot: Callable[[Pilot], StaticArrays], progress: Progress
) -> Iterator[StaticArrays]:
    """The static arrays of the store to be made or resumed, which must be made before the context ends.

    Those of the store at ``out`` if it has them whole, with its root metadata or without. A store whose arrays are
    damaged gets them anew; if they are others than they were, its key refuses them.

    Raises
    ------
    UsageError
        ``source`` is of another codec or of other layers, or the codec has no static arrays.
    StoreError
        ``source`` is no store, or damaged.
    """
    pilot = wanted.codec.pilot(wanted.layers)
    if pilot is None:
        if wanted.source is not None:
            raise UsageError(
                f"codec {wanted.codec.name} has no static arrays to take from {wanted.source}",
                hint=f"write --codec {wanted.codec.name}",
            )
        yield NO_STATIC
    elif wanted.source is not None:
        yield borrow(wanted, wanted.source)
    elif (found := _found(wanted)) is not None:
        yield found
    else:
        note = f"another process computes the static arrays of {wanted.out}; waiting for it"
        with pilot_lock(wanted.out, lambda: progress.note(note)):
            # the process that held the lock before has made the store
            found = _found(wanted)
            yield found if found is not None else run_pilot(pilot) if pilot.wanted else pilot.finish()


def borrow(wanted: ArraysWanted, source: Path) -> StaticArrays:
    """The static arrays of another store, finished or not.

    Raises
    ------
    UsageError, StoreError
        As :func:`static_arrays`.
    """
    require_store(source)
    metadata = load_metadata(source)
    ours = wanted.codec.name
    if metadata.codec.name != ours:
        raise UsageError(
            f"{source} is written in {metadata.codec.name}: it has no static arrays of codec {ours}",
            hint=f"name a store in {ours}, or write --codec {ours} alone for arrays of its own",
        )
    if metadata.layers != wanted.layers:
        raise UsageError(
            f"the static arrays of {source} are those of other layers: {_difference(metadata.layers, wanted.layers)}",
            hint=f"give it the same backbones and --layers; see: {command_line('mettle info', source)}",
        )
    return metadata.read_static()


def _found(wanted: ArraysWanted) -> StaticArrays | None:
    try:
        metadata = load_metadata(wanted.out)
    except StoreMissingError:
        return None
    except StoreError:
        # the root metadata are lost or damaged: what lies beside them shows whose it is
        return find_static(wanted.out, wanted.layers, wanted.segments, wanted.codec)
    # a store in another codec or of other layers has nothing to give; its key says so in a moment
    if metadata.codec.name != wanted.codec.name or metadata.layers != wanted.layers:
        return None
    try:
        return metadata.read_static()
    except StoreError:
        return None


def _difference(theirs: Sequence[LayerSpec], ours: Sequence[LayerSpec]) -> str:
    """What differs between two tables, in a few words."""
    have, want = {layer.name: layer for layer in theirs}, {layer.name: layer for layer in ours}
    lines = [
        f"it has no {', '.join(lacking[:3])}" if (lacking := [name for name in want if name not in have]) else "",
        f"it has {', '.join(surplus[:3])}, too" if (surplus := [name for name in have if name not in want]) else "",
    ]
    other = [name for name in want if name in have and have[name] != want[name]]
    lines += [f"{other[0]} has other sizes or cells there"] if other else []
    return "; ".join(line for line in lines if line)
