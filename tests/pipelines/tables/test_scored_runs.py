"""Scores that evaluate has left, and runs that have none."""

import shutil

import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate_runs
from mettle_cache.pipelines.tables.scored_runs import read_scored_runs
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import find_runs
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train_runs

FAST = ["lcd.dim=16", "lcd.heads=4", "train.learning_rate=3e-3", "train.epochs=1"]


def specs(folder, *, epochs=1):
    recipe = load_recipe("ave-small", [*FAST[:-1], f"train.epochs={epochs}"])
    return [RunSpec(recipe=recipe, seed=s, folder=folder, name=f"a/seed-{s}", variant="a") for s in (0, 1)]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 6)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored") / "group"
    train_runs(store, specs(folder))
    return folder


def test_scores_are_those_of_the_evaluation(trained, tmp_path):
    group = shutil.copytree(trained, tmp_path / "group")
    reports = evaluate_runs(find_runs(group), pictures=False).reports
    runs = read_scored_runs(find_runs(group), "test")
    assert [run.scores for run in runs] == [report.scores for report in reports]
    assert [(run.variant, run.seed, run.dataset, run.metric) for run in runs] == [
        ("a", seed, "ave", "accuracy") for seed in (0, 1)
    ]


def test_runs_that_were_not_evaluated_are_named_with_the_command(trained):
    with pytest.raises(RunError) as error:
        read_scored_runs(find_runs(trained), "val")
    assert "2 of 2 runs have no scores on val" in error.value.message
    assert error.value.hint == f"score them in one pass: mettle evaluate {trained / 'a'} --split val"


def test_scores_of_a_run_that_was_trained_on_are_old(store, trained, tmp_path):
    group = shutil.copytree(trained, tmp_path / "group")
    evaluate_runs(find_runs(group), pictures=False)
    train_runs(store, specs(group, epochs=4), select_on="val", resume=True)
    stale = [run for run in find_runs(group) if "best" not in run.name]
    with pytest.raises(RunError, match="or were trained on since"):
        read_scored_runs(stale, "test")


def test_a_split_that_is_misspelt_is_guessed(trained):
    with pytest.raises(UsageError, match="no run here has scores on a split 'tset'") as error:
        read_scored_runs(find_runs(trained), "tset")
    assert error.value.hint == "did you mean test?"
