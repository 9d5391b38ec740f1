"""Grounding generation from a store: seven layers of the AVQA head, trained before it, into a file of their own.

Runs on the loop that trains heads, so a killed run goes on with ``resume`` and the same seed gives the same bits. The
run's folder lies beside the file. Source: docs/protocols/avqa.md, "Grounding"; unlike the published code, which scores
on its own training videos, the best epoch is that of the val videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.devices import choose_device, peak_memory, prepare_process
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.train.checkpoint import load_checkpoint, save_checkpoint
from mettle_cache.pipelines.train.config import GroundingJob, Videos
from mettle_cache.pipelines.train.loop import train_epochs
from mettle_cache.pipelines.train.outcome import describe_training, open_loggers
from mettle_cache.pipelines.train.recipe import TrainOptions
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_config import RunConfig, StoreReference
from mettle_cache.pipelines.train.run_folder import RunFolder, claim_run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split, read_split
from mettle_cache.pipelines.train.shared_pass import SharedPass
from mettle_cache.sealing import seal
from mettle_cache.store import TokenStore
from mettle_cache.tasks.avqa.grounding import GroundingTask
from mettle_cache.tasks.protocol import Task

WEIGHTS = Path("weights")


def _options(job: GroundingJob) -> TrainOptions:
    return TrainOptions(
        batch_size=job.videos_a_step,
        epochs=job.epochs,
        learning_rate=job.learning_rate,
        step_size=8,
        gamma=0.1,
        precision="float32",
    )


@dataclass(frozen=True, kw_only=True)
class GroundingReport:
    """The outcome; ``accuracy`` is the best epoch's, per cent of val pairs told rightly, None without val videos."""

    out: Path
    run: Path
    epochs: int
    best_epoch: int
    accuracy: float | None
    videos: dict[str, int]
    parameters: int
    videos_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "out": str(self.out), "run": str(self.run)}


def pretrain_grounding(job: GroundingJob, progress: Progress | None = None) -> GroundingReport:
    """Train the seven layers and write those of the best epoch to ``job.out``.

    Raises
    ------
    UsageError
        The store is of another data set or has too few videos, or a file is there that no run of ours wrote.
    RunError
        The run's folder holds another run, or the loss is not finite.
    """
    logged = Logged.over(progress)
    prepare_process()
    path, notes = job.find_store()
    for note in notes:
        logged.note(note)
    store = TokenStore.open(path)
    out = job.out or WEIGHTS / f"{Path(store.path).stem}-grounding.safetensors"
    folder = _run_folder(out)
    if job.seed is None:
        recorded = RunFolder(folder).read_config().seed if job.resume and RunFolder(folder).config.exists() else 0
        job = replace(job, seed=recorded)
    run, shared = _prepare(job, store, logged)
    logged.note(f"store {store.path}, {len(shared.train)} videos, seed {job.seed or 0}, file {out}")
    config = _config(job, store)
    with ExitStack() as held:
        claimed = held.enter_context(claim_run(folder, config, resume=job.resume))
        held.enter_context(logged.kept_in({run.label: claimed.log}, describe_training(shared, folder)))
        loggers = open_loggers(claimed, run.label, None, logged)
        held.enter_context(run.record(claimed, store_digest=store.key_digest, steps=shared.steps, loggers=loggers))
        throughput = train_epochs(shared, [run])
        if run.failure is not None:
            raise run.failure
        tensors, _ = load_checkpoint(claimed.check(claimed.best))
        layers = {layer.modality: layer.name for layer in run.task.layers}
        weights = grounding_layers(tensors)
        save_checkpoint(out, weights, seal(weights, {"store": store.key_digest, "layers": layers}))
    memory, memory_of = peak_memory(shared.loader.device)
    splits = [split for split in (shared.train, shared.selection) if split is not None]
    return GroundingReport(
        out=out,
        run=folder,
        epochs=run.history.epochs,
        best_epoch=run.history.best_epoch,
        accuracy=run.history.best_score,
        videos={split.name: len(split) for split in splits},
        parameters=run.parameters,
        videos_per_second=throughput.clips_per_second,
        peak_memory_bytes=memory,
        peak_memory_of=memory_of,
    )


def grounding_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The seven layers of a model that holds them, by their published names."""
    return {name.rpartition("grounding.")[2]: tensor for name, tensor in tensors.items() if "grounding." in name}


def one_sample_a_video(store: TokenStore, split: str, videos: Videos) -> Split:
    """The first question about each of a split's videos, those of val without the videos of train."""
    chosen, seen = read_split(store, split), set[str]()
    clips = store.samples["clip"].to_pylist()
    if split != "train":
        seen.update(clips[row] for row in read_split(store, "train").rows)
    rows = []
    for row in chosen.rows:
        if clips[row] not in seen and (videos == "all" or clips[row].isdigit()):
            rows.append(row)
        seen.add(clips[row])
    return Split(split, tuple(rows), chosen.dropped)


def _prepare(job: GroundingJob, store: TokenStore, progress: Logged) -> tuple[Run, SharedPass]:
    datasets = [row.name for row in DATASETS if row.task == "avqa"]
    if store.dataset not in datasets:
        raise UsageError(
            f"grounding is trained for {', '.join(datasets)}; {store.path} is of {store.dataset}",
            hint="name a store with --from-cache STORE",
        )
    train, val = (one_sample_a_video(store, split, job.videos) for split in ("train", "val"))
    if len(train) < 2:
        raise UsageError(
            f"{store.path}: train has {len(train)} {job.videos} videos with tokens, and negatives come from others",
            hint="train on the synthetic ones too with --videos all" if job.videos == "real" else None,
        )
    if len(val) < 2:
        progress.note("too few val videos that train lacks: the last epoch is kept instead of the best")
    task = GroundingTask(store.layers, samples=store.samples, segments=store.segments)
    # the training loop asks for no more of a task than this one has
    run = Run(cast(Task, task), _options(job), seed=job.seed or 0, device=choose_device(job.device))
    shared = SharedPass(
        loader=SampleLoader(store, task.layers, device=run.device),
        batch_size=job.videos_a_step,
        order_seed=_options(job).order_seed,
        train=train,
        selection=val if len(val) > 1 else None,
        progress=progress,
    )
    return run, shared


def _config(job: GroundingJob, store: TokenStore) -> RunConfig:
    recipe = {"grounding": {"videos": job.videos, "train": asdict(_options(job))}}
    return RunConfig(recipe=recipe, seed=job.seed or 0, select_on="val", store=StoreReference.of(store))


def _run_folder(out: Path) -> Path:
    """The folder of the run beside its file, which must not be somebody else's."""
    if out.suffix != ".safetensors":
        raise UsageError(
            f"--out {out}: the file is a .safetensors one", hint=f"--out {out.with_suffix('.safetensors')}"
        )
    folder = out.with_suffix("")
    if out.exists() and not (folder / "config.json").exists():
        raise UsageError(f"{out} is there already, and no run of this command wrote it", hint="choose another --out")
    return folder
