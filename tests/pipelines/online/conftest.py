"""Media to train on without a store, and how."""

import shutil

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.pipelines.online.config import OnlineJob
from mettle_cache.pipelines.online.job import train_online
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.run_folder import RunFolder
from tests.pipelines.extraction import AUDIO, VISUAL, write_clips
from tests.pipelines.listener import Listener

SMALL = ("lcd.dim=16", "lcd.heads=2", "train.batch_size=3", "train.epochs=2", "layers=last:2")
OPTIONS = {"dataset": "ave", "visual": VISUAL, "audio": AUDIO}


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("data") / "AVE", train=5, val=2, test=2)


@pytest.fixture(scope="session")
def online():
    """``online(media, out, **options)`` trains a small head; ``fill`` is the store to fill, if any."""

    def call(media, out, *, listener=None, overrides=SMALL, resume=False, fill=None, **options):
        training = TrainJob(overrides=overrides, out=out, log=(), resume=resume)
        job = OnlineJob.of_options(training, {**OPTIONS, "root": media, **options}, fill)
        return train_online(job, None, listener or Listener())

    return call


@pytest.fixture(scope="session")
def weights():
    """``weights(run)``: all weights and optimiser state of the last epoch, and the history without speeds."""

    def of(run):
        tensors, state = load_checkpoint(RunFolder(run).last)
        rows = [
            {name: value for name, value in row.items() if name != "clips_per_second"}
            for row in state["history"]["rows"]
        ]
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, rows

    return of


@pytest.fixture
def damage(media, tmp_path):
    """``damage(split)``: a copy of the media of which one clip of a split looks whole and cannot be decoded; its id."""

    def make(split):
        root = shutil.copytree(media, tmp_path / "damaged")
        dataset = open_dataset("ave", root)
        of_split = dataset.samples.filter(np.equal(dataset.samples["split"].to_numpy(), split))["clip"].to_pylist()
        clip = next(clip for clip in dataset.clips if clip.frames.is_dir() and clip.id in of_split)
        picture = sorted(clip.frames.iterdir())[0]
        picture.write_bytes(picture.read_bytes()[:-200])
        return root, clip.id

    return make
