"""Requests for training, and the checks of them that need no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mettle_cache.devices import check_device_name
from mettle_cache.errors import ConfigError, RunError, StoreMissingError, UsageError
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.places import require_store
from mettle_cache.pipelines.train.recipe_file import read_recipe
from mettle_cache.store import find_stores
from mettle_cache.store.format.metadata import READY, load_metadata

CACHE = Path("cache")
_LISTED = 5
MOST_EPOCHS = MOST_VIDEOS = 10_000

# the rule by which a run's best epoch is chosen: the score on a split, or the last epoch
SelectOn = Literal["val", "test", "last"]
# where tokens stay from one epoch to the next
Resident = Literal["auto", "device", "memory", "disk"]
# the videos of MUSIC-AVQA to pre-train on: the recorded ones, or the synthetic ones too
Videos = Literal["real", "all"]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A training request; None means that the run to resume decides, or the store.

    ``log`` are the names of loggers. ``memory`` is what several heads may take together, and with them tokens that stay
    in the host's memory, in bytes; None for most of what is free. ``resident`` is where tokens stay,
    ``graph`` whether steps on a GPU are captured as a graph.

    Raises
    ------
    ConfigError
        A path that is none of this machine.
    """

    store: Path | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    out: Path | None = None
    resume: bool = False
    select_on: str | None = None
    device: str | None = None
    resident: Resident = "auto"
    memory: int | None = None
    graph: bool = True
    log: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _raise_if_any(resolve_fields(self, "store", "out"), "train")

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything slow is loaded.

        Raises
        ------
        UsageError
            ``select_on`` is no rule of selection, ``resident`` no place for tokens, ``device`` is no device's name, or
            ``recipe`` no recipe's.
        StoreMissingError
            There is no such store, or none was named and none is finished under ``cache/``.
        """
        self.check_choices()
        self.find_store()

    def check_choices(self) -> None:
        """As :meth:`check`, whatever the tokens come from."""
        if self.select_on not in (None, *get_args(SelectOn)):
            raise UsageError(f"--select-on {self.select_on}: choose one of {', '.join(get_args(SelectOn))}")
        if self.resident not in get_args(Resident):
            raise UsageError(f"--resident {self.resident}: choose one of {', '.join(get_args(Resident))}")
        check_device_name(self.device)
        if self.recipe is not None:
            read_recipe(self.recipe)

    def runs(self) -> list[Path]:
        """The runs in ``out`` to resume; none where the request is not to resume, or names a store to begin one from.

        Raises
        ------
        RunError
            There is none, and no store is named.
        """
        return _runs_in(self.out, self.store) if self.resume and self.out is not None else []

    def find_store(self) -> tuple[Path, list[str]]:
        """As :func:`find_store`."""
        return find_store(self.store, self.runs())


@dataclass(frozen=True, kw_only=True)
class GroundingJob:
    """A pre-training request; None means that the store decides.

    ``videos``: the published code trains on the recorded ones, whose ids are digits, and leaves out the synthetic ones.
    ``videos_a_step`` times T pairs make a step; 13 videos are 130, where the peers have 128. The schedule is theirs:
    Adam, a tenth of the rate every eight epochs.

    Raises
    ------
    ConfigError
        All that is wrong with the above.
    """

    store: Path | None = None
    out: Path | None = None
    videos: Videos = "real"
    epochs: int = 30
    learning_rate: float = 3e-4
    videos_a_step: int = 13
    seed: int | None = None
    resume: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.videos not in get_args(Videos):
            problems.append(f"--videos {self.videos}: choose one of {', '.join(get_args(Videos))}")
        if not 0 < self.learning_rate <= 1e30:
            problems.append(f"--learning-rate {self.learning_rate}: must be a number above 0, of up to 1e30")
        if not (1 <= self.epochs <= MOST_EPOCHS and 2 <= self.videos_a_step <= MOST_VIDEOS):
            problems.append(
                f"{self.epochs} epochs of {self.videos_a_step} videos a step: 1 to {MOST_EPOCHS:,} epochs of 2 to "
                f"{MOST_VIDEOS:,}"
            )
        _raise_if_any([*problems, *resolve_fields(self, "store", "out")], "pretrain-grounding")

    def check(self) -> None:
        """As :meth:`TrainJob.check`."""
        check_device_name(self.device)
        self.find_store()

    def find_store(self) -> tuple[Path, list[str]]:
        """As :func:`find_store`; the run's folder lies beside its file."""
        runs = _runs_in(self.out.with_suffix(""), self.store) if self.resume and self.out is not None else []
        return find_store(self.store, runs)


def _runs_in(folder: Path, store: Path | None) -> list[Path]:
    from mettle_cache.pipelines.train.run_folder import find_runs

    try:
        return find_runs(folder)
    except RunError as error:
        if store is None:
            raise RunError(error.message, hint="to begin a run, name its store: --from-cache STORE") from error
        return []


def _raise_if_any(problems: list[str], command: str) -> None:
    if problems:
        raise ConfigError(problems, where="these options cannot be used", hint=f"see: mettle {command} --help")


def find_store(named: Path | None, runs: Sequence[Path]) -> tuple[Path, list[str]]:
    """The store that is named, else that of the runs to resume, else the newest, and what is to be said of that choice.

    Raises
    ------
    StoreError
        There is none, or its metadata are damaged.
    RunError
        The first of the runs is damaged.
    """
    from mettle_cache.pipelines.train.run_folder import RunFolder

    if named is None and runs:
        reference = RunFolder(runs[0]).read_config().store
        place = Path(reference.path)
        if reference.computed is not None:  # its tokens can be computed, whether a store is there or not
            return place, []
        try:
            load_metadata(place)
        except StoreMissingError as error:
            hint = "name the store's new place with --from-cache"
            raise StoreMissingError(f"{runs[0]}: its store is not at {place}", hint=hint) from error
        return place, []
    if named is not None:
        require_store(named)
    place, notes = choose_store(named)
    load_metadata(place)
    return place, notes


def choose_store(named: Path | None, folder: Path = CACHE) -> tuple[Path, list[str]]:
    """The store that is named, else the newest finished one, and what is to be said of that choice.

    Raises
    ------
    StoreMissingError
        None is finished.
    UsageError
        Several are, and two of them are equally new: copies keep no order.
    """
    if named is not None:
        return named, []
    stores = find_stores(folder)
    others = [path for path in sorted(folder.glob("*.zarr")) if path not in stores]
    unfinished = f"; not finished: {_listed(others)}" if others else ""
    if not stores:
        raise StoreMissingError(
            f"there is no finished store under {folder}/{unfinished}",
            hint="make one with: mettle extract --dataset NAME, or name one: --from-cache STORE",
        )
    if len({(path / READY).stat().st_mtime_ns for path in stores[:2]}) < len(stores[:2]):
        raise UsageError(
            f"{len(stores)} finished stores are under {folder}/, and none is the newest: {_listed(stores)}",
            hint="name one: --from-cache STORE",
        )
    if len(stores) == 1 and not others:
        return stores[0], []
    rest = f"; others: {_listed(stores[1:])}" if stores[1:] else ""
    return stores[0], [f"the newest finished store under {folder}/ is taken: {stores[0]}{rest}{unfinished}"]


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(map(str, paths[:_LISTED])) + more
