"""Several runs evaluated together: the numbers of each alone, from one pass."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate, evaluate_runs
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import find_runs
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train_runs
from tests.pipelines.train.rewritten import rewrite_best, rewrite_recipe, rewrite_result
from tests.pipelines.train.test_loop import Counting

FAST = ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=2"]
HEADS = {
    "a/seed-2": ([], 2, "a"),
    "a/seed-10": (["layers=stages"], 10, "a"),
    "b/seed-0": (["method=linear"], 0, "b"),
}


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 7)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "group"
    train_runs(
        store,
        [
            RunSpec(
                recipe=load_recipe("ave-small", [*FAST, *overrides]),
                seed=seed,
                folder=folder,
                name=name,
                variant=variant,
            )
            for name, (overrides, seed, variant) in HEADS.items()
        ],
    )
    return folder


@pytest.fixture
def group(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "group")


def test_runs_are_found_one_and_two_levels_down_with_seeds_in_numerical_order(group):
    assert find_runs(group) == [group / name for name in HEADS]
    assert find_runs(group / "a") == [group / "a" / "seed-2", group / "a" / "seed-10"]
    assert find_runs(group / "b" / "seed-0") == [group / "b" / "seed-0"]


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_runs_is_refused(tmp_path, name):
    with pytest.raises(
        RunError, match=r"there is no run here \(no config.json\)(: the folder is empty)?\n.*train or sweep wrote"
    ):
        find_runs(tmp_path / name)


def test_each_run_has_the_result_that_it_has_alone(store, trained, group, tmp_path):
    alone = shutil.copytree(trained, tmp_path / "alone")
    counting = Counting(store)
    together = evaluate_runs(find_runs(group), store=counting, pictures=False)
    assert len(counting.asked) == 7
    assert together.failures == []
    for report, name in zip(together.reports, HEADS, strict=True):
        expected = evaluate(alone / name, store=store, pictures=False)
        assert (report.scores, report.seed, report.variant) == (expected.scores, HEADS[name][1], HEADS[name][2])
        assert pq.read_table(report.predictions).equals(pq.read_table(expected.predictions))
        assert json.loads((group / name / "result.json").read_text())["evaluation"]["test"] == report.to_json()


def test_other_batch_sizes_take_another_pass(store, group):
    rewrite_recipe(group / "b/seed-0", "train", "batch_size", 2)
    counting = Counting(store)
    assert len(evaluate_runs(find_runs(group), store=counting, pictures=False).reports) == 3
    assert len(counting.asked) == 14


def test_a_run_counts_once_under_whatever_names(store, group, tmp_path, monkeypatch):
    run = group / "b/seed-0"
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(group)
    spellings = [run, "b/seed-0", "b/../b/seed-0/", tmp_path / "link", run]
    together = evaluate_runs(spellings, store=store, pictures=False)
    assert [report.run for report in together.reports] == [run]
    assert [(spread.scores, spread.std) for spread in together.summary] == [
        ([together.reports[0].scores["accuracy"]], None)
    ]
    (note,) = together.notes
    assert f"{run} is named 5 times" in note
    assert together.to_json()["notes"] == [note]


def test_a_copy_of_a_run_is_told(store, group, tmp_path):
    copy = shutil.copytree(group / "b/seed-0", tmp_path / "copy")
    together = evaluate_runs([group / "b/seed-0", copy], store=store, pictures=False)
    assert len(together.reports) == 2
    (note,) = together.notes
    assert f"{group / 'b/seed-0'} and {copy} hold the same weights" in note


def test_every_variant_lists_its_own_differences(store, group):
    reports = evaluate_runs(find_runs(group), store=store, pictures=False).reports
    by_layers = [any("recipe: layers" in line for line in report.differs) for report in reports]
    by_method = [any("recipe: method" in line for line in report.differs) for report in reports]
    assert by_layers == [False, True, False]
    assert by_method == [False, False, True]


@pytest.mark.parametrize(
    ("split", "message", "hint"),
    [
        ("tset", "there is no split 'tset'", "did you mean test? it has train, val, test"),
        ("everything", "there is no split 'everything'", "it has train, val, test"),
    ],
)
def test_a_split_that_there_is_not_is_answered_with_those_there_are(store, group, split, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(group / "b/seed-0", store=store, split=split, pictures=False)
    assert caught.value.hint == hint


def test_mean_and_deviation_are_of_each_variant(store, group):
    document = evaluate_runs(find_runs(group), store=store, pictures=False).to_json()
    scores = [run["scores"]["accuracy"] for run in document["runs"]]
    assert [spread["variant"] for spread in document["summary"]] == ["a", "b"]
    assert document["summary"][0]["mean"] == pytest.approx((scores[0] + scores[1]) / 2)
    assert document["summary"][0]["std"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert document["summary"][1]["scores"] == [scores[2]]


def test_a_run_without_an_epoch_or_with_broken_weights_does_not_cost_the_others(store, group):
    (group / "a/seed-2/best.safetensors").unlink()
    rewrite_best(group / "b/seed-0", lambda tensors: tensors["decoder.event.bias"].fill_(float("nan")))
    together = evaluate_runs(find_runs(group), store=store, pictures=False)
    assert [report.run for report in together.reports] == [group / "a/seed-10"]
    messages = {run: str(error) for run, error in together.failures}
    assert set(messages) == {group / "a/seed-2", group / "b/seed-0"}
    assert "best.safetensors: missing" in messages[group / "a/seed-2"]
    assert "not finite" in messages[group / "b/seed-0"]
    assert {entry["run"] for entry in together.to_json()["failures"]} == {str(run) for run in messages}


def test_a_run_whose_training_failed_is_scored_and_not_averaged(store, group):
    failed = {"failure": "the loss is not finite"}
    rewrite_result(group / "a/seed-2", lambda result: result["training"].update(failed))
    together = evaluate_runs(find_runs(group / "a"), store=store, pictures=False)
    assert together.reports[0].training_failure == "the loss is not finite"
    (spread,) = together.summary
    assert (spread.scores, spread.failed) == ([together.reports[1].scores["accuracy"]], 1)


def test_no_run_has_scores_where_none_could_be_loaded(store, group):
    (group / "b/seed-0/best.safetensors").unlink()
    together = evaluate_runs([group / "b/seed-0"], store=store, pictures=False)
    assert (together.reports, together.summary) == ([], [])
    with pytest.raises(RunError, match=r"best\.safetensors: missing"):
        evaluate(group / "b/seed-0", store=store, pictures=False)


def test_what_is_wrong_for_all_runs_is_raised(store, group):
    with pytest.raises(UsageError, match="there is no split 'holdout'"):
        evaluate_runs(find_runs(group), split="holdout", store=store, pictures=False)
