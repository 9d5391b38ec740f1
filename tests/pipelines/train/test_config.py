"""What training is asked, refused before anything slow is loaded."""

import os
import shutil
from pathlib import Path

import pytest

from mettle_cache.errors import ConfigError, StoreMissingError, UsageError
from mettle_cache.pipelines.train.config import GroundingJob, TrainJob, choose_store


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
    newest, notes = choose_store(None)
    assert newest == Path("cache/a.zarr")
    assert notes == [
        "the newest finished store under cache/ is taken: cache/a.zarr; others: cache/b.zarr; "
        "not finished: cache/unfinished.zarr"
    ]
    assert choose_store(store) == (store, [])
    TrainJob().check()


def test_a_single_store_needs_no_words(store, tmp_path):
    shutil.copytree(store, tmp_path / "a.zarr")
    assert choose_store(None, tmp_path) == (tmp_path / "a.zarr", [])


def test_of_equally_new_stores_none_is_taken(store, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(store, tmp_path / f"{name}.zarr")
        os.utime(tmp_path / f"{name}.zarr" / "READY", (1e9, 1e9))
    with pytest.raises(UsageError, match=r"2 finished stores .* none is the newest: .*a.zarr, .*b.zarr"):
        choose_store(None, tmp_path)


def test_an_unfinished_store_is_named_where_none_is_finished(store, tmp_path):
    shutil.copytree(store, tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "READY").unlink()
    with pytest.raises(StoreMissingError, match=r"not finished: .*a.zarr"):
        choose_store(None, tmp_path)


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
