"""Curves from a run's own table."""

import csv
import json

import numpy as np
import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.figures.compute.learning_curves import run_curve
from mettle_cache.pipelines.train import load_recipe, train


def test_a_curve_is_the_runs_table(trained_run):
    curve, score = run_curve(trained_run, "lcd")
    with (trained_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert score == "val accuracy"
    assert list(curve.loss) == [float(row["loss"]) for row in rows]
    assert list(curve.score) == [float(row["val_accuracy"]) for row in rows]
    assert curve.best == json.loads((trained_run / "result.json").read_text())["training"]["best_epoch"]


def test_without_scores_the_last_epoch_is_the_one(tiny_store, tmp_path):
    store = tiny_store(4, 0, 2)
    train(store, recipe=load_recipe("ave-small", ["train.epochs=2", "lcd.dim=16"]), out=tmp_path / "run", device="cpu")
    curve, _ = run_curve(tmp_path / "run", "lcd")
    assert np.isnan(curve.score).all()
    assert curve.best == 2


def test_a_damaged_table_is_refused(trained_run, tmp_path):
    with pytest.raises(RunError, match="there is no run here"):
        run_curve(tmp_path, "nothing")
