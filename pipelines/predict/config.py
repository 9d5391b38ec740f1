"""The request of a prediction, and the report of its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mettle_cache.devices import check_device_name
from mettle_cache.errors import ConfigError, RunError, UsageError
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.places import require_one_run, require_store
from mettle_cache.pipelines.predict.media import MediaItem

PREDICTIONS = Path("predictions")
EXPORTED = "folded.safetensors"


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """One prediction.

    Attributes
    ----------
    run
        A run's folder, or a head that ``mettle export`` wrote.
    files
        Videos, folders of pictures with their sound, and folders of these.
    out
        The folder of the results; None: ``predictions/`` and the run's name.
    store, visual, audio, device
        As in :meth:`mettle_cache.pipelines.predict.predictor.Predictor.load`.
    questions
        What question answering is asked of every file.
    sound
        The recording of the one file.
    one_clip
        Read every file as extraction reads a clip, whatever its length.
    fill_missing
        Silence or black pictures where a file has none.
    pictures
        Draw timelines, overlays and where a head looked.
    """

    run: Path
    files: tuple[Path, ...]
    out: Path | None = None
    store: Path | None = None
    visual: str | None = None
    audio: str | None = None
    questions: tuple[str, ...] = ()
    sound: Path | None = None
    one_clip: bool = False
    fill_missing: bool = False
    pictures: bool = True
    device: str | None = None

    def __post_init__(self) -> None:
        problems = resolve_fields(self, "run", "out", "store", "sound")
        if not self.files:
            problems.append("there is nothing to answer about: name a video, or a folder of them")
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle predict --help")

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything slow is loaded.

        Raises
        ------
        RunError, StoreMissingError
            There is no run, exported head or store.
        UsageError
            No such device, or ``out`` is a file or a run's folder.
        """
        check_device_name(self.device)
        if not self.run.is_file():
            require_one_run(self.run)
        elif self.run.suffix != ".safetensors":
            raise RunError(
                f"{self.run}: this is neither a run's folder nor an exported head",
                hint="name a folder that train wrote, or a file that mettle export wrote",
            )
        if self.store is not None:
            require_store(self.store)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: the place of the results is a file", hint="name a folder with --out")
        if (self.folder / "config.json").exists():
            raise UsageError(f"{self.folder}: this is a run's folder", hint="name another one with --out")

    def refuse_beside(self, items: Sequence[MediaItem]) -> None:
        """Refuse a place of the results where media lie, as those have the names that results get.

        Raises
        ------
        UsageError
            An item lies in the folder of the results.
        """
        place = self.folder.resolve()
        for item in items:
            if item.path.absolute().parent.resolve() == place:
                raise UsageError(
                    f"{item.path}: this lies in {self.folder}, where results might be written over it",
                    hint="name a folder of the results' own with --out",
                )

    @property
    def folder(self) -> Path:
        """Where the results go."""
        if self.out is not None:
            return self.out
        place = self.run.absolute()
        if place.name == EXPORTED:
            place = place.parent
        return PREDICTIONS / (place.stem if place.is_file() else place.name)


@dataclass(frozen=True, kw_only=True)
class PredictReport:
    """The outcome of a prediction.

    Attributes
    ----------
    answered
        The rows of the tables, in the order of the files.
    files
        What was written for each item by name, beside the tables.
    failures
        Files that could not be answered, with the reason.
    notes
        In what the tokens are not those that the head was trained on.
    timing
        Windows, and seconds a window of ``decoding``, ``backbones`` and ``head``.
    """

    run: Path
    out: Path
    task: str
    answered: list[dict[str, Any]]
    files: dict[str, list[Path]]
    failures: dict[str, str]
    notes: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every file was answered."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        files = {name: [str(path) for path in paths] for name, paths in self.files.items()}
        return {**vars(self), "run": str(self.run), "out": str(self.out), "files": files, "ok": self.ok}
