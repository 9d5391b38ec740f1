"""What a shell offers for a value after Tab: names that are registered here, and the stores and runs of a folder.

All of it is quick: no PyTorch, and no file is opened. Where nothing fits the shell offers files by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Completer = Callable[[str], list[str]]
CACHE, RUNS = Path("cache"), Path("runs")
RUN_FILES = ("config.json", "*/config.json", "*/*/config.json")


def one_of(*names: str) -> Completer:
    """Offer these words."""
    return _offering(lambda: names)


def _offering(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _datasets() -> Iterable[str]:
    from mettle_cache.datasets.registry import DATASETS

    return DATASETS.names()


def _backbones() -> Iterable[str]:
    from mettle_cache.backbones.registry import BACKBONES

    return BACKBONES.names()


def _codecs() -> Iterable[str]:
    from mettle_cache.store.format.codecs import CODECS

    return CODECS.names()


def _methods() -> Iterable[str]:
    from mettle_cache.methods.registry import METHODS

    return METHODS.names()


def _tasks() -> Iterable[str]:
    from mettle_cache.tasks.registry import TASKS

    return TASKS.names()


def _recipes() -> Iterable[str]:
    from mettle_cache.pipelines.train.recipe_list import recipe_names

    return recipe_names()


def _sweeps() -> Iterable[str]:
    from mettle_cache.pipelines.train.recipe_file import SWEEP, list_built_in

    return list_built_in(SWEEP)


def _loggers() -> Iterable[str]:
    from mettle_cache.pipelines.train.loggers.registry import LOGGERS, NONE

    return (*LOGGERS.names(), NONE)


datasets, backbones, codecs, methods, tasks, recipes, sweeps, loggers = map(
    _offering, (_datasets, _backbones, _codecs, _methods, _tasks, _recipes, _sweeps, _loggers)
)


def stores(incomplete: str) -> list[str]:
    """Token stores in the folder that is being typed, or under ``cache/`` and here."""
    return sorted(place for place in _children(incomplete, CACHE) if place.endswith(".zarr"))


def runs(incomplete: str) -> list[str]:
    """Folders of runs in the folder that is being typed, or under ``runs/`` and here."""
    places = (place for place in _children(incomplete, RUNS) if not place.endswith(".zarr"))
    return sorted(place for place in places if any(True for name in RUN_FILES for _ in Path(place).glob(name)))


OF_METAVAR = {"STORE": stores, "[STORE]": stores, "RUN": runs}
"""By the word that stands for a path in a command's help."""


def _children(incomplete: str, usual: Path) -> Iterator[str]:
    """Folders whose path begins with ``incomplete``, as it is written."""
    begun = incomplete.rpartition("/")[0]
    folders = [f"{begun}/"] if "/" in incomplete else [f"{usual}/", ""]
    for folder in folders:
        try:
            entries = [entry for entry in os.scandir(folder or ".") if entry.is_dir()]
        except OSError:
            continue
        yield from (f"{folder}{entry.name}" for entry in entries if f"{folder}{entry.name}".startswith(incomplete))
