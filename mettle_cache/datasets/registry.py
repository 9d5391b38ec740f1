"""The data sets by name. A new one is a module that offers a :class:`DatasetInfo`, and one row, here or in a package.

The rows are data: a data set's module, and the decoders behind it, load when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mettle_cache.datasets.protocol import Dataset, DatasetInfo
from mettle_cache.errors import PluginError, UsageError
from mettle_cache.paths import local_path
from mettle_cache.registry import DatasetRow, Registry

_DENSE_LAYERS = "visual/pyramid"
_SEGMENTATION_LAYERS = f"{_DENSE_LAYERS},audio/last:1"

DATASETS = Registry(
    "data set",
    "mettle_cache.datasets",
    DatasetRow,
    (
        DatasetRow("ave", "mettle_cache.datasets.ave:INFO", task="avel"),
        DatasetRow("llp", "mettle_cache.datasets.llp:INFO", task="avvp", layers="stages"),
        DatasetRow(
            "avs-s4",
            "mettle_cache.datasets.avsbench:S4_INFO",
            task="avs",
            layers=_SEGMENTATION_LAYERS,
            dense=_DENSE_LAYERS,
        ),
        DatasetRow(
            "avs-ms3",
            "mettle_cache.datasets.avsbench:MS3_INFO",
            task="avs",
            layers=_SEGMENTATION_LAYERS,
            recipe="avs-ms3-small",
            dense=_DENSE_LAYERS,
        ),
        DatasetRow("music-avqa", "mettle_cache.datasets.avqa:INFO", task="avqa", layers="last:1"),
        DatasetRow("folder", "mettle_cache.datasets.folder:INFO", task="avel"),
    ),
)


def dataset_info(name: str) -> DatasetInfo:
    """What stands behind a data set's name.

    Raises
    ------
    UsageError
        No data set has that name.
    PluginError
        The package that offers it is broken.
    """
    info = DATASETS.load(name)
    if not isinstance(info, DatasetInfo):
        raise PluginError(f"{DATASETS.row(name).target} is no DatasetInfo but a {type(info).__name__}")
    if info.name != name:
        raise PluginError(f"the data set '{name}' calls itself '{info.name}' in {DATASETS.row(name).target}")
    return info


def list_datasets() -> tuple[list[DatasetInfo], dict[str, str]]:
    """Every data set by name, and those whose package is broken with the reason."""
    infos: list[DatasetInfo] = []
    broken = DATASETS.broken
    for name in sorted(DATASETS.names()):
        try:
            infos.append(dataset_info(name))
        except PluginError as error:
            broken[name] = error.message
    return infos, broken


def default_root(name: str) -> Path:
    """Where the data set lies when the user does not say, relative to the working folder. Raises UsageError."""
    return dataset_info(name).default_root


def resolve_options(name: str, chosen: Mapping[str, str | int]) -> dict[str, str]:
    """The options of a data set by name, as text, those not chosen at their defaults.

    Raises
    ------
    UsageError
        An unknown data set, option or choice.
    """
    known = {option.name: option for option in dataset_info(name).options}
    texts = {key: str(value) for key, value in chosen.items()}
    for key, value in texts.items():
        if key not in known:
            have = f"its options: {', '.join(known)}" if known else "it has no options"
            raise UsageError(f"the data set {name} has no option {key!r}", hint=have)
        known[key].accept(value)
    return {key: option.accept(texts.get(key, option.default)) for key, option in known.items()}


def open_dataset(
    name: str, root: Path | str | None = None, options: Mapping[str, str | int] = MappingProxyType({})
) -> Dataset:
    """Read the annotations of data set ``name`` under ``root`` and find its media.

    Missing media are no error yet: ask ``problems()``.

    Raises
    ------
    UsageError
        An unknown name, option or choice, or a root that is no folder that can be read.
    PluginError
        The package that offers the data set is broken.
    DatasetError
        Annotations that are missing, malformed or inconsistent, all of it in one message.
    """
    chosen = resolve_options(name, options)
    folder = dataset_folder(name, root)
    return dataset_info(name).open(folder, **chosen)


def dataset_folder(name: str, root: Path | str | None = None) -> Path:
    """The folder that data set ``name`` is read from: ``root``, or else where it lies by default.

    Raises
    ------
    UsageError, PluginError
        As :func:`open_dataset`.
    """
    info = dataset_info(name)
    folder = local_path(root) if root is not None else info.default_root
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the {name} folder {folder} {what}", hint=f"--root FOLDER, laid out as {info.layouts[0]}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"the {name} folder {folder} cannot be read: permission denied")
    return folder
