"""What of stores and runs can go, and taking it away: first a list of exact paths, then these and nothing else.

Without being named only what nothing reads goes: files of killed writers, and companions of other tokens than their
store's. Companions and the checkpoints that finished runs could be resumed from go where they are asked for, stores and
runs where they are named themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mettle_cache.errors import MettleError, StoreUnfinishedError, UsageError
from mettle_cache.pipelines.inventory.claims import claim, is_busy
from mettle_cache.pipelines.inventory.entries import Entry, bytes_on_disk, describe, find_places, is_run, is_token_store
from mettle_cache.pipelines.places import is_store
from mettle_cache.store.format.files import CLIPS_FILE, COMPANIONS, PARTIAL
from mettle_cache.store.format.metadata import READY

CHECKPOINT = "last.safetensors"
_SAFETENSORS_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Removal:
    """A file or a folder that can go.

    Attributes
    ----------
    owner
        The store or the run that it is, or lies in.
    what
        What it is, in words.
    remembered_by
        Of a store the runs that were trained from it; it is busy while one of them is.
    """

    path: Path
    owner: Path
    what: str
    nbytes: int
    busy: bool = False
    remembered_by: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, object]:
        remembered = [str(run) for run in self.remembered_by]
        return {
            "path": str(self.path),
            "what": self.what,
            "nbytes": self.nbytes,
            "busy": self.busy,
            "remembered_by": remembered,
        }


@dataclass
class Cleaned:
    """What was removed, with the bytes that it took, and what could not be, with the reasons."""

    removed: list[Removal] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.removed)


def find_removals(
    places: Sequence[Path], *, companions: bool = False, checkpoints: bool = False, runs: Sequence[Path] = ()
) -> list[Removal]:
    """What can go of these places: a store or a run as a whole, and of a folder what nothing in it needs.

    ``runs`` are folders whose runs are looked at for those that remember a store.

    Raises
    ------
    UsageError
        There is no such folder, it is a link, or a store within another one; or what would go as a whole holds another
        store or run, or the current folder.
    """
    for place in places:
        _check(place)
    entries = [describe(run) for folder in runs for run in find_places(folder) if is_run(run)]
    found: dict[Path, Removal] = {}
    for place in places:
        removals = [_whole(place, entries)] if _is_whole(place) else _within(place, companions, checkpoints)
        found |= {Path(os.path.abspath(one.path)): one for one in removals}
    # what lies in something else that goes is not listed beside it
    return [one for path, one in found.items() if not any(parent in found for parent in path.parents)]


def remove(removals: Sequence[Removal]) -> Cleaned:
    """Remove these paths and nothing else. What another process works in stays, and so does what the system refuses."""
    cleaned = Cleaned()
    for one in removals:
        try:
            with ExitStack() as claimed:
                # a training reads its store to its end
                for folder in (one.owner, *one.remembered_by):
                    claimed.enter_context(claim(folder))
                _check_finished(one)
                _remove(one.path)
        except MettleError as error:
            cleaned.refused[one.path] = error.message
        except OSError as error:
            cleaned.refused[one.path] = f"cannot be removed: {error.strerror or error}"
        else:
            cleaned.removed.append(one)
    return cleaned


def _check(place: Path) -> None:
    if place.is_symlink():
        raise UsageError(f"{place} is a link", hint=f"name the folder itself: {place.resolve()}")
    if not place.is_dir():
        raise UsageError(f"there is no folder {place}", hint="see what there is: mettle ls")
    if is_store(place) and not is_token_store(place):
        raise UsageError(f"{place} is no token store of mettle-cache", hint="remove it by hand if it is yours")
    if inside := next((folder for folder in place.resolve().parents if is_token_store(folder)), None):
        raise UsageError(f"{place} is a part of the store {inside}", hint="name the store, or the folder that holds it")
    if _is_whole(place):
        _check_alone(place)


def _is_whole(place: Path) -> bool:
    return is_token_store(place) or is_run(place)


def _check_alone(place: Path) -> None:
    """Refuse to remove a store or a run with others in it, or around the user."""
    here = Path.cwd()
    if place.resolve() in (here, *here.parents):
        raise UsageError(f"{place} holds the current folder", hint="go elsewhere, and name it from there")
    for top, folders, _ in os.walk(place):
        folders[:] = [name for name in sorted(folders) if Path(top, name) != place / COMPANIONS]
        for folder in (Path(top, name) for name in folders):
            if (folder / CLIPS_FILE).is_file() or is_run(folder):
                raise UsageError(f"{place} holds another store or run: {folder}", hint="move that elsewhere first")


def _whole(place: Path, runs: Sequence[Entry]) -> Removal:
    entry = describe(place)
    done = "" if entry.done is None or entry.state == "finished" else f", {entry.done} of {entry.total}"
    what = f"{entry.state} {entry.kind}{done}"
    remembered = tuple(
        run.path
        for run in runs
        if entry.kind == "store" and (run.key == entry.key != "" or Path(run.store) == place.resolve())
    )
    busy = any(map(is_busy, (place, *remembered)))
    return Removal(place, place, what, entry.nbytes, busy, remembered)


def _within(folder: Path, companions: bool, checkpoints: bool) -> list[Removal]:
    removals: list[Removal] = []
    for place in find_places(folder):
        found = _in_store(place, companions) if is_token_store(place) else _in_run(place, checkpoints)
        parts = [(path, what) for path, what in found if not path.is_symlink()]
        busy = bool(parts) and is_busy(place)
        removals += [Removal(path, place, what, bytes_on_disk(path), busy) for path, what in parts]
    return removals


def _in_store(store: Path, companions: bool) -> Iterator[tuple[Path, str]]:
    """In a store that is not finished such a file holds clips that count, so nothing of it goes."""
    from mettle_cache.store.catalog import describe_store

    if describe(store).state != "finished":
        return
    for top, folders, files in os.walk(store):
        folders[:] = sorted(name for name in folders if Path(top, name) != store / COMPANIONS)
        for name in sorted(files):
            if name.endswith(PARTIAL):
                yield Path(top, name), "a file that a killed writer left"
    with suppress(MettleError):
        listed = describe_store(store)["companions"]
        assert isinstance(listed, list)
        for one in listed:
            path = store / COMPANIONS / str(one["name"])
            if one["state"] == "outdated":
                yield path, "a companion of other tokens than the store's"
            elif companions and one["state"] in ("finished", "unfinished", "damaged"):
                yield path, "a companion: the next training that wants it makes it anew"


def _in_run(run: Path, checkpoints: bool) -> Iterator[tuple[Path, str]]:
    for path in sorted(run.iterdir()):
        if path.is_file() and (path.name.endswith(PARTIAL) or path.name.startswith(_SAFETENSORS_TEMPORARY)):
            yield path, "a file that a killed writer left"
    if checkpoints and describe(run).state in ("finished", "evaluated") and (run / CHECKPOINT).is_file():
        yield run / CHECKPOINT, "the last checkpoint of a finished run: it cannot be made longer without it"


def _check_finished(one: Removal) -> None:
    """Files that a killed writer left in a store are of no use while it is finished; else they may be its clips."""
    if one.path != one.owner and is_token_store(one.owner) and not (one.owner / READY).is_file():
        raise StoreUnfinishedError(f"{one.owner} is no longer finished")


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    # a store is no longer finished before anything else of it goes, whatever ends this process on the way
    (path / READY).unlink(missing_ok=True)
    shutil.rmtree(path)
