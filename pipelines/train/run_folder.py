"""A run's folder: its files, the lock that lets one process write to it, and whether a run may be resumed in it.

``config.json`` (recipe, seed, selection, store), ``last.safetensors`` (to resume), ``best.safetensors`` (to evaluate),
``metrics.csv`` (one row an epoch), ``events/`` (TensorBoard), ``result.json``, ``predictions-SPLIT.parquet``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mettle_cache.errors import RunError, StoreMissingError, UsageError
from mettle_cache.paths import local_path
from mettle_cache.pipelines.train.config import SelectOn
from mettle_cache.store.writing.durable import PARTIAL, make_folder, remove_files, write_file

if TYPE_CHECKING:
    from mettle_cache.pipelines.train.recipe import Recipe
    from mettle_cache.store.reading.token_store import TokenStore

_MAX_JSON = 16 << 20


@dataclass(frozen=True, kw_only=True)
class StoreReference:
    """The store that a run was trained from."""

    path: str
    key_digest: str
    dataset: str
    codec: str

    @classmethod
    def of(cls, store: TokenStore) -> StoreReference:
        return cls(
            path=str(local_path(Path(store.path).resolve())),
            key_digest=store.key_digest,
            dataset=store.dataset,
            codec=store.codec,
        )

    def open(self, run: Path, *, instead: Path | TokenStore | None = None) -> TokenStore:
        """That store, or ``instead`` in its place, which must hold the same tokens; ``run`` is for the messages.

        Raises
        ------
        StoreMissingError
            There is none.
        RunError
            Its key is another one: its tokens would mean something else.
        """
        from mettle_cache.store.reading.token_store import TokenStore  # zarr takes long to import

        place = Path(self.path) if instead is None else instead
        try:
            store = TokenStore.open(place) if isinstance(place, Path) else place
        except StoreMissingError as error:
            raise StoreMissingError(
                f"{run}: its store is not at {place}", hint="name the store's new place with --store"
            ) from error
        if store.key_digest != self.key_digest:
            raise RunError(
                f"{run}: trained from a store with key {self.key_digest}; {store.path} has {store.key_digest}",
                hint="use the run's own store, or train again from this one",
            )
        return store


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``config.json``: everything that decides a run's numbers, and the path of its store."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    recipe: dict[str, Any]
    seed: int
    select_on: SelectOn
    store: StoreReference
    format: Literal["mettle-run-1"] = "mettle-run-1"

    def load_recipe(self) -> Recipe:
        from mettle_cache.pipelines.train.recipe import recipe_from_json

        return recipe_from_json(self.recipe, where="the run's config.json")

    def differences(self, other: RunConfig) -> list[str]:
        """Fields that differ and would change a run's numbers; the store's path may differ."""
        from mettle_cache.pipelines.train.recipe import same_recipe

        same = {
            "recipe": same_recipe(self.recipe, other.recipe),
            "seed": self.seed == other.seed,
            "select_on": self.select_on == other.select_on,
            "store": self.store.key_digest == other.store.key_digest,
        }
        return [name for name, alike in same.items() if not alike]


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions-{split}.parquet"

    def artefacts(self, split: str) -> Path:
        return self.path / f"artefacts-{split}"

    def read_config(self) -> RunConfig:
        """The run's configuration; raises RunError where there is none or it is damaged."""
        if not self.config.is_file():
            raise RunError(f"{self.path}: this is not a run (no config.json)", hint="name a folder that train wrote")
        try:
            return TypeAdapter(RunConfig).validate_json(_read_capped(self.config))
        except (ValidationError, OSError) as error:
            raise RunError(f"{self.config}: not a run configuration that this version reads ({error})") from error

    def update_result(self, section: Mapping[str, object]) -> None:
        """Put top-level keys into ``result.json``, keeping the others."""
        write_file(self.result, _to_bytes({**self.read_result(), **section}))

    def read_result(self) -> dict[str, Any]:
        """What ``result.json`` holds; empty before the first result, or where the file is damaged and is replaced."""
        if not self.result.is_file():
            return {}
        try:
            result = json.loads(_read_capped(self.result))
        except ValueError as error:
            raise RunError(f"{self.result}: damaged ({error})", hint="delete the file and evaluate again") from error
        return dict(result)


@contextmanager
def claim_run(path: Path, config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """Hold a run's folder for training: a new one, or with ``resume`` one of the very same configuration.

    Raises
    ------
    RunError
        The folder holds another run, something else, or is in use by another process.
    UsageError
        The path is a file.
    """
    check_claim(path, config, resume=resume)
    make_folder(path)
    with hold_run(path) as folder:
        # once more: it may have become another process's since
        check_claim(path, config, resume=resume)
        if not folder.config.exists():
            write_file(folder.config, _to_bytes(asdict(config)))
        yield folder


@contextmanager
def claim_runs(claims: Sequence[tuple[Path, RunConfig]], *, resume: bool) -> Iterator[list[RunFolder]]:
    """:func:`claim_run` for several folders: all of them, or none is touched."""
    for path, config in claims:
        check_claim(path, config, resume=resume)
    with ExitStack() as held:
        yield [held.enter_context(claim_run(path, config, resume=resume)) for path, config in claims]


@contextmanager
def hold_run(path: Path) -> Iterator[RunFolder]:
    """Keep other processes from writing to a run's folder, and remove what a killed one left half written.

    Raises
    ------
    RunError
        Another process trains or evaluates here.
    """
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"{path}: another process is training or evaluating in this folder") from error
    try:
        # safetensors has temporary files of its own, called .tmp and six letters
        remove_files(entry for entry in path.iterdir() if entry.name.endswith(PARTIAL) or entry.name.startswith(".tmp"))
        yield RunFolder(path)
    finally:
        lock.release()


def check_claim(path: Path, config: RunConfig, *, resume: bool) -> None:
    """Make sure that a run may be trained in a folder, without touching it; raises what :func:`claim_run` does."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: the run's folder is a file", hint="choose another folder with --out")
    folder = RunFolder(path)
    if not folder.config.exists():
        _check_empty(path)
        return
    if not resume:
        raise RunError(f"{folder.path}: a run is here already", hint="add --resume to go on, or choose another --out")
    different = config.differences(folder.read_config())
    if different:
        raise RunError(
            f"{folder.path}: the run here has another {', '.join(different)}",
            hint="resume with what its config.json says, or choose another --out",
        )


def _check_empty(path: Path) -> None:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in names if not name.startswith(".") and not name.endswith(PARTIAL)]
    if strangers:
        raise RunError(
            f"{path}: the folder is not empty and holds no run ({', '.join(strangers[:3])})",
            hint="choose another folder with --out",
        )


def _to_bytes(table: Mapping[str, object]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()


def _read_capped(path: Path) -> bytes:
    if path.stat().st_size > _MAX_JSON:
        raise RunError(f"{path}: larger than {_MAX_JSON} bytes, which no run writes")
    return path.read_bytes()


def find_runs(path: Path) -> list[Path]:
    """The run in a folder, or the runs one or two levels below it, seeds in numerical order.

    Raises
    ------
    RunError
        There is none.
    """
    if RunFolder(path).config.exists():
        return [path]
    runs = [config.parent for pattern in ("*/config.json", "*/*/config.json") for config in path.glob(pattern)]
    if not runs:
        raise RunError(f"{path}: there is no run here (no config.json)", hint="name a folder that train or sweep wrote")
    return sorted(runs, key=lambda run: [_natural(part) for part in run.relative_to(path).parts])


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which seed-10 comes after seed-9."""
    return [(int(number or 0), words) for words, number in re.findall(r"(\D*)(\d*)", text)]
