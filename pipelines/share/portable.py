"""What leaves the machine with a run: its files, those with places of this machine in them written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mettle_cache.errors import RunError
from mettle_cache.paths import command_line
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.format.digests import digest

Content = Path | bytes
# an absolute path in a text; what it ends in stays
_PLACE = re.compile(r"(?<![\w./:])(?:/[^/\s'\",:;()]+)+/([^/\s'\",:;()]+)")
_LARGEST_SEARCHED = 256 << 20


def portable_run(path: Path) -> dict[str, Content]:
    """A run's files by name, ``config.json`` last: those that its record lists, and no log, events or pictures.

    ``config.json`` and ``result.json`` name the store and the run by their last names only; the record's digests are
    those of the files as they are pushed.

    Raises
    ------
    RunError
        A file is damaged or missing, the run has finished no epoch, or its record has no digests.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    if not config.has_digests:
        again = command_line("mettle train --resume --out", path)
        raise RunError(f"{path}: an earlier version wrote this run without digests", hint=f"{again} adds them")
    folder.check(folder.best)
    files: dict[str, Content] = {name: folder.check(path / name) for name in sorted(config.files)}
    digests = dict(config.files)
    if folder.result.name in files:
        content = (json.dumps(_without_places(folder.read_result()), indent=2) + "\n").encode()
        files[folder.result.name], digests[folder.result.name] = content, digest(content)
    store = replace(config.store, path=Path(config.store.path).name, computed=_without_places(config.store.computed))
    return {**files, folder.config.name: replace(config, store=store, files=digests).to_bytes()}


def files_with_places(files: Iterable[tuple[str, Content]], places: Iterable[Path]) -> list[str]:
    """The names of files in which one of ``places``, folders of this machine, still stands."""
    wanted = [str(place).encode() for place in places if len(place.parts) > 1]
    found = []
    for name, content in files:
        if isinstance(content, Path):
            if content.stat().st_size > _LARGEST_SEARCHED:
                continue
            content = content.read_bytes()
        if any(place in content for place in wanted):
            found.append(name)
    return found


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str):
        # a path alone may have blanks in it
        return Path(value).name if value.startswith("/") and "\n" not in value else _PLACE.sub(r"\1", value)
    return value
