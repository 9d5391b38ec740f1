"""What lies at a path that was meant to be a store or a run, and which command takes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets import list_datasets
from mettle_cache.errors import MettleError, RunError, StoreMissingError
from mettle_cache.paths import command_line
from mettle_cache.store.format.files import CLIPS_FILE
from mettle_cache.store.format.metadata import RECORDS, ROOT

# any of these is a store's, a damaged one's too: what is wrong with it is for the store's reader to say
STORE_FILES = (ROOT, *RECORDS)
RUN_FILE = "config.json"
_LISTED = 3


@dataclass(frozen=True)
class Place:
    """``what`` completes «it is ...», in words; ``hint`` says what to run instead. Both may be empty."""

    what: str
    hint: str


def require_store(path: Path) -> None:
    """Refuse a path where there is no store, damaged or not.

    Raises
    ------
    StoreMissingError
        There is none; the message says what is there, the hint what it is good for.
    """
    if not is_store(path) or _owner(path):
        place = _look_at(path)
        raise StoreMissingError(
            f"there is no token store at {path}{place.what}",
            hint=place.hint or "make one with: mettle extract --dataset NAME",
        )


def require_run(path: Path) -> None:
    """Refuse a path where there is no run, nor runs one or two levels below it.

    Raises
    ------
    RunError
        As :func:`require_store`.
    """
    if not any(_runs_in(path)):
        place = _look_at(path)
        raise RunError(
            f"{path}: there is no run here (no {RUN_FILE}){place.what}",
            hint=place.hint or "name a folder that train or sweep wrote",
        )


def require_one_run(path: Path) -> None:
    """As :func:`require_run`, for what takes one run only.

    Raises
    ------
    RunError
        There is none in ``path`` itself.
    """
    require_run(path)
    if not (path / RUN_FILE).exists():
        runs = sorted(str(run) for run in _runs_in(path))
        raise RunError(f"{path}: this is a folder of runs, not a run", hint=f"name one of them: {_listing(runs)}")


def is_store(path: Path) -> bool:
    """Whether a store lies at a path, finished or not, damaged or not, or is meant to."""
    if path.is_dir():
        # a folder of that name, or with a metadata file half written, may be a store that was killed as it began
        begun = path.suffix == ".zarr" or any(path.glob(f"{ROOT}*"))
        return begun or any((path / name).exists() for name in STORE_FILES)
    return path.is_symlink() and not path.exists()


def _owner(path: Path) -> Path | None:
    """The store that ``path`` lies in, if any."""
    return next((folder for folder in path.parents if (folder / CLIPS_FILE).is_file()), None)


def _runs_in(path: Path) -> Iterator[Path]:
    for pattern in (RUN_FILE, f"*/{RUN_FILE}", f"*/*/{RUN_FILE}"):
        yield from (config.parent for config in path.glob(pattern))


def _look_at(path: Path) -> Place:
    """What there is instead of what was expected."""
    if not path.exists():
        return Place("", _near(path))
    if owner := _owner(path):
        return Place(": it is a part of one", f"name the store: {owner}")
    if is_store(path):
        return Place(
            ": it is a token store",
            f"see it: {command_line('mettle info', path)}; "
            f"or train from it: {command_line('mettle train --from-cache', path)}",
        )
    if any(_runs_in(path)):
        what = "is a training run" if (path / RUN_FILE).exists() else "holds training runs"
        return Place(f": it {what}", f"score it: {command_line('mettle evaluate', path)}")
    if path.is_file():
        inside = (path.parent / RUN_FILE).exists()
        return Place(": it is a file", f"name the run's folder: {path.parent}" if inside else "name a folder")
    return _look_into(path)


def _look_into(folder: Path) -> Place:
    """What a folder is that is neither a store nor a run."""
    stores = [str(store) for store in sorted(folder.glob("*.zarr")) if is_store(store)]
    if stores:
        return Place(": it is a folder of stores", f"name one of them: {_listing(stores)}")
    if dataset := _dataset_in(folder):
        command = command_line("mettle extract --dataset", dataset, "--root", folder)
        return Place(f": it is a data set ({dataset})", f"make a store of it: {command}")
    entries = sorted(entry.name for entry in folder.iterdir())
    return Place(f": the folder holds {_listing(entries)}" if entries else ": the folder is empty", "")


def _dataset_in(folder: Path) -> str | None:
    for info in list_datasets()[0]:
        try:
            info.open(folder, **{option.name: option.default for option in info.options})
        except (MettleError, OSError):
            continue
        return info.name
    return None


def _near(path: Path) -> str:
    """The nearest names beside a path that does not exist."""
    if not path.parent.is_dir():
        return ""
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.5)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""


def _listing(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
