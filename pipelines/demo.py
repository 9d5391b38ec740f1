"""The main job on a small data set that the demo writes itself: data, extract, verify, train, evaluate.

It proves that everything works together on this machine. Its backbone has random weights and its scenes are drawn, so
its accuracy says nothing about the paper's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from mettle_cache.devices import peak_resident
from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.progress import Progress

FOLDER = Path("runs") / "demo"
MARKER = "demo-of-mettle-cache"
# the published visual backbone is a Swin-V2; this is timm's smallest, at half its side, for frames and log-mels alike
BACKBONE = "swinv2_tiny_window8_256@128=random"
# enough to learn five categories, and half of the recipe's time
TRAINING = ("train.epochs=8",)
# no floor can be beaten by luck on 20 clips of 5 categories by this much
CLEARLY = 20.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """One step of the demo: what it did, its seconds, and the process's peak memory until then."""

    name: str
    did: str
    seconds: float
    peak_memory: int


@dataclass
class DemoReport:
    """The steps, and the accuracy (percent of test segments) beside the always-background floor."""

    folder: Path
    accuracy: float = 0.0
    floor: float = 0.0
    steps: list[Step] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def ok(self) -> bool:
        """Whether the head learnt something: it beats the floor clearly."""
        return self.accuracy > self.floor + CLEARLY

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "seconds": self.seconds, "ok": self.ok}

    def run(self, name: str, work: Callable[[], Result], describe: Callable[[Result], str]) -> Result:
        """Do one step and record it."""
        started = time.perf_counter()
        result = work()
        self.steps.append(Step(name, describe(result), time.perf_counter() - started, peak_resident()))
        return result


def run_demo(progress: Progress, *, folder: Path = FOLDER, seed: int = 0) -> DemoReport:
    """Write the data, extract, verify, train and evaluate under ``folder``, which an earlier demo may have made.

    Raises
    ------
    UsageError
        ``folder`` holds something that no demo wrote.
    RunError
        A step did not give what it must.
    """
    prepare_folder(folder)
    progress.note(f"the backbone has random weights and the scenes are drawn: this proves the plumbing ({folder})")
    report = DemoReport(folder)
    data, store, run = folder / "AVE", folder / "store.zarr", folder / "run"
    report.run("data", lambda: _write_data(data, seed), lambda clips: f"{clips} clips as JPEG, WAV and MP4 files")
    _extract(report, data, store, seed, progress)
    _train(report, store, run, seed, progress)
    return report


def prepare_folder(folder: Path) -> None:
    """An empty folder, marked as the demo's own."""
    marker = folder / MARKER
    if folder.exists() and not marker.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something that is not of the demo", hint="name another folder with --out")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()


def _write_data(root: Path, seed: int) -> int:
    from mettle_cache.datasets import open_dataset
    from mettle_cache.datasets.synthetic.ave import write_demo_ave

    write_demo_ave(root, seed=seed, layout="mixed")
    return len(open_dataset("ave", root).clips)


def _extract(report: DemoReport, data: Path, store: Path, seed: int, progress: Progress) -> None:
    from mettle_cache.pipelines.extract.config import ExtractConfig
    from mettle_cache.pipelines.extract.run import extract
    from mettle_cache.pipelines.report.units import format_bytes
    from mettle_cache.store import verify_store

    config = ExtractConfig(
        dataset="ave", root=data, visual=BACKBONE, audio="shared", layers="stages", out=store, seed=seed
    )
    extracted = report.run(
        "extract",
        lambda: extract(config, progress),
        lambda done: f"{format_bytes(done.nbytes)}, {done.frames_per_second:.0f} frames/s",
    )
    if not (extracted.ok and extracted.finished):
        raise RunError(f"the demo's extraction lacks clips: {extracted.failures}")
    checked = report.run("verify", lambda: verify_store(store, deep=True), lambda _: "every byte, deep")
    if not checked.ok:
        raise RunError(f"the demo's store is damaged: {checked.problems[0]}", hint="check this disk")


def _train(report: DemoReport, store: Path, run: Path, seed: int, progress: Progress) -> None:
    from mettle_cache.pipelines.evaluate.evaluation import evaluate
    from mettle_cache.pipelines.train.config import TrainJob
    from mettle_cache.pipelines.train.job import start_training

    report.run(
        "train",
        lambda: start_training(TrainJob(store=store, out=run, seed=seed, overrides=TRAINING), progress),
        lambda done: f"{done.epochs} epochs, {done.clips_per_second:.0f} clips/s",
    )
    evaluated = report.run(
        "evaluate",
        lambda: evaluate(run, progress=progress),
        lambda done: f"{done.scores[done.metric]:.1f} % of {done.samples} test clips' seconds",
    )
    report.accuracy = evaluated.scores["accuracy"]
    report.floor = evaluated.floors["always background"]
