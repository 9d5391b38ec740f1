"""The data sets by name. A new one is a file that offers ``INFO`` and an opener, and a line here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from mettle_cache.datasets import ave, avqa, avsbench, llp
from mettle_cache.datasets.protocol import Dataset, DatasetInfo
from mettle_cache.errors import UsageError

# the root, then the options of the data set by name, all of them as text
Opener = Callable[..., Dataset]

_REGISTRY: dict[str, tuple[DatasetInfo, Opener]] = {}


def register(info: DatasetInfo, opener: Opener) -> None:
    """Make a data set known by its name. Raises ValueError when the name is taken."""
    if info.name in _REGISTRY:
        raise ValueError(f"a data set named {info.name!r} is registered already")
    _REGISTRY[info.name] = (info, opener)


register(ave.INFO, ave.open_ave)
register(avqa.INFO, avqa.open_avqa)
register(avsbench.S4_INFO, avsbench.open_s4)
register(avsbench.MS3_INFO, avsbench.open_ms3)
register(llp.INFO, llp.open_llp)


def list_datasets() -> list[DatasetInfo]:
    """What is known of each data set, by name."""
    return [info for _, (info, _) in sorted(_REGISTRY.items())]


def dataset_info(name: str) -> DatasetInfo:
    """What is known of one data set. Raises UsageError."""
    return _entry(name)[0]


def default_root(name: str) -> Path:
    """Where the data set lies when the user does not say, relative to the working folder. Raises UsageError."""
    return _entry(name)[0].default_root


def resolve_options(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The options of a data set by name, those not given at their defaults.

    Raises
    ------
    UsageError
        An unknown data set, option or choice.
    """
    known = {option.name: option for option in dataset_info(name).options}
    for key, value in given.items():
        if key not in known:
            have = f"its options: {', '.join(known)}" if known else "it has no options"
            raise UsageError(f"the data set {name} has no option {key!r}", hint=have)
        if value not in known[key].choices:
            raise UsageError(f"option {key}={value}: must be one of {', '.join(known[key].choices)}")
    return {key: given.get(key, option.default) for key, option in known.items()}


def open_dataset(
    name: str, root: Path | str | None = None, options: Mapping[str, str] = MappingProxyType({})
) -> Dataset:
    """Read the annotations of data set ``name`` under ``root`` and find its media.

    Missing media are no error yet: ask ``problems()``.

    Raises
    ------
    UsageError
        An unknown name, option or choice, or a root that is no folder that can be read.
    DatasetError
        Annotations that are missing, malformed or inconsistent, all of it in one message.
    """
    info, opener = _entry(name)
    chosen = resolve_options(name, options)
    folder = Path(root) if root is not None else info.default_root
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the {name} folder {folder} {what}", hint=f"--root FOLDER, laid out as {info.layouts[0]}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"the {name} folder {folder} cannot be read: permission denied")
    return opener(folder, **chosen)


def _entry(name: str) -> tuple[DatasetInfo, Opener]:
    try:
        return _REGISTRY[name]
    except KeyError:
        raise UsageError(f"unknown data set {name!r}", hint=f"one of: {', '.join(sorted(_REGISTRY))}") from None
