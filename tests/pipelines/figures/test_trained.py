"""Runs as figures see them: the weights of the best epoch, predictions once, and which samples are examples."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mettle_cache.errors import RunError, StoreMissingError
from mettle_cache.pipelines.evaluate import evaluate
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from tests.pipelines.listener import Listener


@pytest.fixture(scope="module")
def group(trained_run, linear_run, tiny_ave):
    runs = [TrainedRun.load(path, path.name, store=tiny_ave) for path in (trained_run, linear_run)]
    return RunGroup(runs, "test", None, Listener())


def test_predictions_are_those_of_evaluation(group, trained_run, tiny_ave, tmp_path):
    report = evaluate(trained_run, store=tiny_ave, out=tmp_path / "out", pictures=False)
    predictions = group.predictions(0)
    assert group.task.score(predictions, group.split.rows) == report.scores
    assert group.predictions(0) is predictions


def test_examples_go_from_the_best_sample_to_the_worst(group):
    scores = group.task.sample_scores(group.predictions(0), group.split.rows)
    ranked = [scores[place] for place in group.examples(len(group.split))]
    assert ranked == sorted(scores, reverse=True)
    best, median, worst = group.examples(3)
    assert scores[[best, median, worst]] == pytest.approx([max(scores), np.median(scores), min(scores)])
    assert len(group.examples(100)) == len(group.split)
    assert group.examples(1) == [best]


def test_more_runs_than_there_is_room_for_are_told(group):
    assert [run.label for run in group.first(1, "masks")] == ["lcd"]
    assert group.progress.notes[-1] == "masks: there is room for 1 of 2 runs, the first ones"


def test_weights_are_those_of_the_best_epoch(group, trained_run):
    best = load_file(trained_run / "best.safetensors")
    state = group.runs[0].run.model.state_dict()
    assert set(state) <= set(best)
    assert all(torch.equal(state[name], best[name]) for name in state)


def test_a_run_without_an_epoch_or_without_its_store(trained_run, tmp_path):
    with pytest.raises(RunError, match="there is no run here"):
        TrainedRun.load(tmp_path, "x")
    with pytest.raises(StoreMissingError, match=r"its store is not at .*nowhere"):
        TrainedRun.load(trained_run, "x", store=tmp_path / "nowhere")
