import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mettle_cache.errors import DatasetError, RunError, StoreMissingError, UsageError
from mettle_cache.metrics.avel import segment_accuracy
from mettle_cache.pipelines.evaluate import sheets
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train
from mettle_cache.store.format.files import file_digest
from tests.pipelines.listener import Listener
from tests.pipelines.train.rewritten import rewrite_best, rewrite_recipe, rewrite_store

RECIPE = load_recipe("ave-small", ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=4"])


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 7)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(store, recipe=RECIPE, out=out)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_accuracy_is_that_of_the_written_predictions(store, run):
    listener = Listener()
    report = evaluate(run, store=store, progress=listener)
    table = pq.read_table(report.predictions)
    assert report.scores["accuracy"] == pytest.approx(
        100 * np.mean(np.equal(table["prediction"].to_numpy(), table["target"].to_numpy()))
    )
    assert report.predictions == run / "predictions-test.parquet"
    rows = store.samples.filter(np.equal(store.samples["split"].to_numpy(), "test"))
    assert table["row"].to_pylist() == np.repeat(rows["row"].to_numpy(), 10).tolist()
    assert table["clip"].to_pylist() == np.repeat(rows["clip"].to_numpy(), 10).tolist()
    assert (report.samples, report.dropped, listener.done, listener.total) == (7, 0, 7, 7)


def test_pictures_are_named_and_replaced(store, run):
    for _ in range(2):
        report = evaluate(run, store=store)
        assert report.pictures == [run / "artefacts-test" / "timelines.png"]
        assert report.to_json()["pictures"] == [str(report.pictures[0])]
        with Image.open(report.pictures[0]) as picture:
            assert picture.width > 900
            assert picture.height > picture.width
        assert sorted(path.name for path in run.glob("*artefacts*")) == ["artefacts-test"]
    # nothing is left that shows another evaluation than the last
    assert evaluate(run, store=store, pictures=False).pictures == []
    assert not list(run.glob("*artefacts*"))


def test_a_picture_that_fails_costs_no_score(store, run, monkeypatch):
    recorded = []

    def failing(*arguments):
        recorded.append(json.loads((run / "result.json").read_text())["evaluation"]["test"]["scores"])
        raise ValueError("no such colour")

    monkeypatch.setattr(sheets, "sheet_files", failing)
    listener = Listener()
    report = evaluate(run, store=store, progress=listener)
    assert recorded == [report.scores]
    note = "no pictures could be drawn, so artefacts-test is not of this evaluation (ValueError: no such colour)"
    assert report.notes[-1] == note
    assert (report.pictures, report.artefacts) == ([], None)
    assert any(line.endswith(note) for line in listener.notes)
    assert json.loads((run / "result.json").read_text())["evaluation"]["test"] == report.to_json()


def test_a_root_that_is_no_data_set_is_refused_before_anything_is_computed(store, run, tmp_path):
    listener = Listener()
    with pytest.raises(DatasetError):
        evaluate(run, store=store, root=tmp_path, progress=listener)
    assert listener.done == 0
    assert not (run / "predictions-test.parquet").exists()


def test_targets_are_rebuilt_from_the_annotations(store, run):
    table = pq.read_table(evaluate(run, store=store, pictures=False).predictions)
    expected = [
        store.vocabulary["categories"].index(row["category"]) if row["start"] <= t < row["end"] else 3
        for row in store.samples.to_pylist()
        if row["split"] == "test"
        for t in range(10)
    ]
    assert table["target"].to_pylist() == expected


def test_the_best_weights_are_used(store, run):
    report = evaluate(run, store=store, pictures=False)
    _, state = load_checkpoint(run / "best.safetensors")
    assert report.best_epoch == state["epoch"]
    assert report.checkpoint_digest == file_digest(run / "best.safetensors")
    # on val, the evaluation finds the very score that selected the epoch
    assert evaluate(run, split="val", store=store, pictures=False).scores["accuracy"] == state["score"]


def test_the_floor_is_beaten_and_stands_beside(store, run):
    report = evaluate(run, store=store, pictures=False)
    targets = pq.read_table(report.predictions)["target"].to_numpy().reshape(-1, 10)
    assert report.floors == {"always background": segment_accuracy(np.full_like(targets, 3), targets)}
    assert report.scores["accuracy"] > report.floors["always background"] + 10


def test_predictions_do_not_depend_on_how_they_are_batched(store, run):
    whole = pq.read_table(evaluate(run, store=store, pictures=False).predictions)
    rewrite_recipe(run, "train", "batch_size", 2)
    again = pq.read_table(evaluate(run, store=store, pictures=False).predictions)
    assert again.drop_columns("scores").equals(whole.drop_columns("scores"))
    # a sum may be added up in another order
    np.testing.assert_allclose(again["scores"].to_pylist(), whole["scores"].to_pylist(), atol=1e-6)


def test_evaluations_are_counted_and_training_s_result_stays(store, run):
    before = json.loads((run / "result.json").read_text())["training"]
    assert [evaluate(run, store=store, pictures=False).times_evaluated for _ in range(2)] == [1, 2]
    report = evaluate(run, split="val", store=store, pictures=False)
    result = json.loads((run / "result.json").read_text())
    assert result["training"] == before
    assert result["evaluation"]["test"]["times_evaluated"] == 2
    assert result["evaluation"]["val"] == report.to_json()


def test_the_split_is_read_once(store, run):
    asked = []

    class Counting:
        def __getattr__(self, name):
            return getattr(store, name)

        def batches(self, order, **options):
            asked.extend(clip for clips in order for clip in clips)
            return store.batches(order, **options)

    evaluate(run, store=Counting(), pictures=False)
    clips = store.samples.filter(np.equal(store.samples["split"].to_numpy(), "test"))["clip"].to_pylist()
    assert [store.clips[clip] for clip in asked] == clips


def test_another_store_is_refused(run, tiny_store):
    with pytest.raises(RunError, match=r"trained from a store with key \w+; .*tiny.zarr has \w+\n"):
        evaluate(run, store=tiny_store(16, 6, 7, key={"weights": "other"}).path, pictures=False)


def test_the_store_is_found_where_it_was_or_where_it_is_said_to_be(run, store, tmp_path):
    expected = evaluate(run, pictures=False).scores
    moved = shutil.copytree(store.path, tmp_path / "moved.zarr")
    rewrite_store(run, tmp_path / "gone.zarr")
    with pytest.raises(StoreMissingError, match=r"its store is not at .*gone.zarr\n  next: name .* --store"):
        evaluate(run, pictures=False)
    assert evaluate(run, store=moved, pictures=False).scores == expected


def test_an_empty_split_is_refused(run, store):
    with pytest.raises(UsageError, match="there is no split 'holdout'"):
        evaluate(run, split="holdout", store=store, pictures=False)


def test_a_folder_without_weights_is_refused(run, store):
    (run / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"best\.safetensors: missing, although the run's config\.json lists it"):
        evaluate(run, store=store, pictures=False)


def test_weights_are_loaded_strictly(run, store):
    rewrite_recipe(run, "lcd", "k_visual", 2)
    with pytest.raises(RunError, match="the weights are not those of this run's model"):
        evaluate(run, store=store, pictures=False)


def test_weights_that_are_not_finite_give_no_number(run, store):
    rewrite_best(run, lambda tensors: tensors["decoder.event.bias"].fill_(float("nan")))
    with pytest.raises(RunError, match=r"best\.safetensors: weights that are not finite: decoder\.event\.bias"):
        evaluate(run, store=store, pictures=False)
