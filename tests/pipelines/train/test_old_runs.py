"""Runs that an earlier version wrote are resumed and scored for ever.

``golden/run-1`` was written by the first version: a linear head with seed 3, stopped after two of three epochs, and
scored. What the third epoch and its test score were is from that version's run that was not stopped. ``store-1.tar.gz``
is the store that it learnt from, of format 1.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from mettle_cache.pipelines.evaluate import evaluate
from mettle_cache.pipelines.train import train
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.run_folder import RunFolder

GOLDEN = Path(__file__).parent / "golden" / "run-1"
LOSSES = [3.165560930967331, 2.553058534860611, 2.1734472811222076]
SCORE_OF_THE_WHOLE_RUN = 65.0


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "run")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(GOLDEN.parent / "store-1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store-1.zarr"


def test_an_old_run_still_scores_what_it_scored(run, store):
    recorded = json.loads((GOLDEN / "result.json").read_text())["evaluation"]["test"]
    report = evaluate(run, store=store, pictures=False)
    assert report.scores == recorded["scores"] == {"accuracy": 42.5}
    assert report.details == recorded["details"]
    assert (report.best_epoch, report.times_evaluated) == (recorded["best_epoch"], 2)
    assert report.checkpoint_digest == recorded["checkpoint_digest"]


def test_an_old_run_goes_on_where_it_stopped(run, store):
    report = train(store, recipe=RunFolder(run).read_config().load_recipe(), out=run, seed=3, resume=True)
    # to single precision: another processor's sums differ in the last bits
    assert [row["loss"] for row in report.history] == pytest.approx(LOSSES, rel=1e-5)
    assert report.best_epoch == 3
    assert evaluate(run, store=store, pictures=False).scores == {"accuracy": SCORE_OF_THE_WHOLE_RUN}
    _, state = load_checkpoint(run / "last.safetensors")
    assert set(state) == {"history", "trainee", "run"}
