"""Runs on a medium that cannot be written: evaluated and exported to another place, and left alone."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate, evaluate_runs
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train

RECIPE = load_recipe("ave-small", ["method=linear", "linear.dim=4", "train.epochs=1", "train.batch_size=4"])
NOBODY = 65534


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 4)


@pytest.fixture
def place(store):
    """A folder with two runs that nobody may write to, and one for results; not below a folder of root's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    for seed in (0, 1):
        train(store, recipe=RECIPE, out=folder / "runs" / f"seed-{seed}", seed=seed)
    # store and interpreter may lie in folders of root's alone: what is opened and imported late could not be then
    evaluate(shutil.copytree(folder / "runs" / "seed-0", folder / "before"), store=store, pictures=False)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    for root, _, files in os.walk(folder / "runs"):
        Path(root).chmod(0o555)
        for name in files:
            (Path(root) / name).chmod(0o444)
    yield folder
    for root, _, _ in os.walk(folder):
        Path(root).chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def as_user():
    """Without root's right to write everywhere, where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def listed(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_results_go_to_the_folder_that_is_named(store, place, tmp_path):
    run, out = place / "runs" / "seed-0", place / "out"
    before = listed(run)
    expected = evaluate(
        shutil.copytree(run, tmp_path / "copy"), store=store, out=tmp_path / "elsewhere", pictures=False
    )
    with as_user():
        with pytest.raises(
            RunError, match=r"results cannot be written there.*\.lock.*\n.*mettle evaluate .* --out FOLDER"
        ):
            evaluate(run, store=store, pictures=False)
        with pytest.raises(RunError, match=r"head cannot be written there.*\.lock.*\n.*mettle export .* --out FILE"):
            export_run(run, store=store)
        reports = [evaluate(run, store=store, out=out, pictures=False) for _ in range(2)]
        head = export_run(run, store=store, out=out / "head.safetensors", repeats=1).out
    assert [report.scores for report in reports] == [expected.scores] * 2
    assert [report.times_evaluated for report in reports] == [1, 2]
    assert reports[0].predictions == out / "predictions-test.parquet"
    assert reports[0].predictions.exists()
    assert load_exported(head) is not None
    assert listed(run) == before


def test_each_of_several_runs_has_a_folder_of_its_own(store, place):
    with as_user():
        group = evaluate_runs(
            [place / "runs" / f"seed-{seed}" for seed in (0, 1)], store=store, out=place / "out", pictures=False
        )
    assert [report.predictions.parent for report in group.reports] == [
        place / "out" / f"seed-{seed}" for seed in (0, 1)
    ]


def test_all_files_of_a_run_have_the_mode_of_other_files(store, tmp_path):
    before = os.umask(0o002)
    try:
        train(store, recipe=RECIPE, out=tmp_path / "run")
        evaluate(tmp_path / "run", store=store, pictures=False)
        export_run(tmp_path / "run", store=store, repeats=1)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o664" for path in files}


def test_another_run_s_folder_is_no_place_for_results(store, place):
    with pytest.raises(UsageError, match="this is a run's folder"):
        evaluate(place / "runs" / "seed-0", store=store, out=place / "runs" / "seed-1", pictures=False)
