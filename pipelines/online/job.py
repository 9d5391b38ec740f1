"""Starting a training whose tokens are computed by frozen backbones in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from mettle_cache.devices import prepare_process
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.online.config import OnlineJob, splits_of
from mettle_cache.pipelines.online.opening import open_online
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.run_reports import GroupReport, TrainReport
from mettle_cache.pipelines.train.job import train_one, train_seeds
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe


def train_online(job: OnlineJob, seeds: Sequence[int] | None, progress: Progress) -> TrainReport | GroupReport:
    """Train a head, or one for each of several seeds, with the backbones in the loop.

    Raises
    ------
    UsageError, PluginError, WeightsError, DatasetError
        As an extraction, and as a training.
    RunError
        The run's folder holds another run, or the loss is not finite.
    """
    progress = Logged.over(progress)
    prepare_process()
    if job.training.recipe is not None:
        load_recipe(job.training.recipe)  # what is wrong with it shows before the media are looked at
    fill = splits_of(job.training.select_on or "val") if job.fill else ()
    with closing(open_online(job.extraction, progress, fill=fill, failed_before=job.failed_before)) as tokens:
        name = job.training.recipe or default_recipe(tokens)
        if seeds is not None:
            return train_seeds(job.training, seeds, tokens, name, progress)
        return train_one(job.training, tokens, name, progress)
