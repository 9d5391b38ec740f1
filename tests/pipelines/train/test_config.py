"""What training is asked, refused before anything slow is loaded."""

import os
import shutil
from pathlib import Path

import pytest

from mettle_cache.errors import ConfigError, StoreMissingError, UsageError
from mettle_cache.pipelines.train.config import GroundingJob, TrainJob, newest_store


@pytest.fixture(scope="module")
def store(tiny_store):
    return Path(tiny_store(4, 2, 2).path)


def test_what_can_be_done_passes(store):
    TrainJob(store=store, select_on="last", device="cpu").check()
    GroundingJob(store=store, device="cpu").check()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"select_on": "train"}, UsageError, "--select-on train: choose one of val, test, last"),
        ({"device": "gpu"}, UsageError, "there is no device called 'gpu'"),
        ({"store": Path("nowhere.zarr")}, StoreMissingError, "there is no token store at nowhere.zarr"),
    ],
)
def test_what_cannot_be_done_is_refused(store, change, error, message):
    with pytest.raises(error, match=message):
        TrainJob(**{"store": store, **change}).check()
    if "select_on" not in change:
        with pytest.raises(error, match=message):
            GroundingJob(**{"store": store, **change}).check()


def test_without_a_store_the_newest_finished_one_under_cache_serves(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for job in (TrainJob(), GroundingJob()):
        with pytest.raises(StoreMissingError, match="there is no finished store under cache/"):
            job.check()
    for number, name in enumerate(("b", "a", "unfinished")):
        shutil.copytree(store, tmp_path / "cache" / f"{name}.zarr")
        os.utime(tmp_path / "cache" / f"{name}.zarr" / "READY", (1e9 + number, 1e9 + number))
    (tmp_path / "cache" / "unfinished.zarr" / "READY").unlink()
    assert newest_store(Path("cache")) == Path("cache/a.zarr")
    TrainJob().check()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_grounding_job_says_everything_that_is_wrong(rate):
    with pytest.raises(ConfigError) as caught:
        GroundingJob(videos="fake", learning_rate=rate, epochs=0)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "--videos fake",
        f"--learning-rate {rate}",
        "0 epochs of 13 videos a step",
    ]
    with pytest.raises(ConfigError, match="30 epochs of 1 videos a step"):
        GroundingJob(videos_a_step=1)
