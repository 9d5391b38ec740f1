"""Stores and runs below some folders, with their state and size, from their small records alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mettle_cache.errors import MettleError, StoreCorruptError, StoreError, StoreUnfinishedError, UsageError
from mettle_cache.pipelines.places import RUN_FILE, is_store
from mettle_cache.store.format.files import CLIPS_FILE
from mettle_cache.store.format.metadata import READY, StoreMetadata, load_metadata, read_ready

USUAL = (Path("cache"), Path("runs"))
DEPTH = 3
"""How far below a named folder: a sweep's runs are two levels below its folder."""
_MOST_BYTES = 16 << 20
State = Literal["finished", "unfinished", "damaged", "evaluated"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A store or a run.

    Attributes
    ----------
    done, total
        Clips that are committed, or epochs that are trained, of how many; None where the records do not say.
    nbytes
        What it takes on the disk.
    modified
        When its records last changed, in seconds since 1970.
    score, scored
        The metric on test, or else on what selected the epoch, and what that is: ``test accuracy``. None for a store.
    store, key
        Of a run the place and the key digest of its store; of a store its own.
    """

    path: Path
    kind: Literal["store", "run"]
    state: State
    nbytes: int
    modified: float
    done: int | None = None
    total: int | None = None
    dataset: str = ""
    codec: str = ""
    score: float | None = None
    scored: str = ""
    store: str = ""
    key: str = ""

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "path": str(self.path)}


def list_entries(folders: Sequence[Path]) -> list[Entry]:
    """Every store and run in these folders, or the one that a folder is, in the order of their paths.

    Raises
    ------
    UsageError
        There is no such folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}", hint="name folders that hold stores or runs")
    return [describe(path) for folder in folders for path in find_places(folder)]


def usual_folders() -> list[Path]:
    """Those of ``cache/`` and ``runs/`` that there are; of links the folders that they lead to."""
    return [folder.resolve() if folder.is_symlink() else folder for folder in USUAL if folder.is_dir()]


def find_places(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders of stores and runs within ``folder``, or itself. Links below it are not followed."""
    if is_token_store(folder) or is_run(folder):
        yield folder
    elif depth > 0:
        with suppress(OSError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    yield from find_places(folder / entry.name, depth - 1)


def is_token_store(folder: Path) -> bool:
    """Whether a folder is a store of this package, finished or not, damaged or not, and no other zarr group."""
    if not is_store(folder) or not folder.is_dir():
        return False
    try:
        load_metadata(folder)
    except (StoreUnfinishedError, StoreCorruptError):
        return True
    except StoreError:
        return (folder / CLIPS_FILE).is_file()
    return True


def is_run(folder: Path) -> bool:
    """Whether a folder has the record of a run, readable or not, and not some other program's file of that name."""
    record = _read_json(folder / RUN_FILE)
    if record:
        return bool(_table(record, "recipe")) and bool(_table(record, "store"))
    return (folder / RUN_FILE).is_file() and (folder / "metrics.csv").is_file()


def describe(path: Path) -> Entry:
    """What lies at the path of a store or a run."""
    return _describe_store(path) if is_token_store(path) else _describe_run(path)


def bytes_on_disk(path: Path) -> int:
    """What a file, or a folder with all that is in it, takes on the disk; links are not followed."""
    total = _blocks(path)
    if path.is_dir() and not path.is_symlink():
        total += sum(_blocks(Path(top) / name) for top, names, files in os.walk(path) for name in (*names, *files))
    return total


def _blocks(path: Path) -> int:
    """One that goes meanwhile takes nothing."""
    with suppress(OSError):
        return os.lstat(path).st_blocks * 512
    return 0


def _describe_store(path: Path) -> Entry:
    modified = _newest(path / READY, path / "commits", path)
    nbytes = bytes_on_disk(path)
    try:
        metadata = load_metadata(path)
        ready = read_ready(metadata)
    except StoreUnfinishedError:
        return Entry(path=path, kind="store", state="unfinished", nbytes=nbytes, modified=modified)
    except MettleError:
        return Entry(path=path, kind="store", state="damaged", nbytes=nbytes, modified=modified)
    key = metadata.record.key
    return Entry(
        path=path,
        kind="store",
        state="unfinished" if ready is None else "finished",
        nbytes=nbytes,
        modified=modified,
        done=_committed(metadata) if ready is None else ready.clips,
        total=metadata.clips,
        dataset=key.dataset,
        codec=key.codec,
        store=str(path),
        key=metadata.record.key_digest,
    )


def _committed(metadata: StoreMetadata) -> int | None:
    from mettle_cache.store.format.manifest import manifest_so_far

    with suppress(MettleError):
        return sum(status == "ok" for status in manifest_so_far(metadata).statuses)
    return None


def _describe_run(path: Path) -> Entry:
    record, result = _read_json(path / RUN_FILE), _read_json(path / "result.json")
    store, total = _table(record, "store"), _table(record, "recipe", "train").get("epochs")
    done = _trained_epochs(path / "metrics.csv")
    scored, score = _score(result)
    finished = bool(_table(result, "training")) and isinstance(total, int) and done >= total
    known = bool(store) and isinstance(total, int)
    state: State = "evaluated" if _table(result, "evaluation") else "finished"
    return Entry(
        path=path,
        kind="run",
        state="damaged" if not known else state if finished else "unfinished",
        nbytes=bytes_on_disk(path),
        modified=_newest(path / RUN_FILE, path / "result.json"),
        done=done if known else None,
        total=total if isinstance(total, int) else None,
        dataset=str(store.get("dataset", "")),
        codec=str(store.get("codec", "")),
        score=score,
        scored=scored,
        store=str(store.get("path", "")),
        key=str(store.get("key_digest", "")),
    )


def _score(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """The metric of the evaluation on test, or on another split, or that which selected the epoch."""
    evaluations = _table(result, "evaluation")
    split = "test" if "test" in evaluations else next(iter(evaluations), "")
    evaluation, training = _table(evaluations, split), _table(result, "training")
    metric = str(evaluation.get("metric", ""))
    score = _table(evaluation, "scores").get(metric)
    if not isinstance(score, int | float):
        metric, split, score = (
            str(training.get("metric", "")),
            training.get("selected_on", ""),
            training.get("best_score"),
        )
    return (f"{split} {metric}", float(score)) if isinstance(score, int | float) else ("", None)


def _trained_epochs(metrics: Path) -> int:
    with suppress(OSError), metrics.open("rb") as file:
        return max(0, file.read(_MOST_BYTES).count(b"\n") - 1)
    return 0


def _newest(*paths: Path) -> float:
    times = []
    for path in paths:
        with suppress(OSError):
            times.append(os.lstat(path).st_mtime)
    return max(times, default=0.0)


def _table(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table within tables; empty where anything else is in its place."""
    for key in keys:
        inner = document.get(key)
        document = inner if isinstance(inner, dict) else {}
    return document


def _read_json(path: Path) -> Mapping[str, Any]:
    """A record as it is, without looking at its digest; empty for anything that is none."""
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        document = json.loads(file.read(_MOST_BYTES))
        return document if isinstance(document, dict) else {}
    return {}
