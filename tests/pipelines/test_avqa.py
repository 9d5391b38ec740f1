"""Question answering from a store, through the commands' own functions."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mettle_cache.datasets.avqa import SAMPLE_SCHEMA
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.report.params import count_trainable, params_table
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import SampleLoader, evaluation_inputs, read_split, training_inputs
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train, train_runs
from mettle_cache.registry import Registry, TaskRow
from mettle_cache.tasks.avqa.task import AvqaTask
from mettle_cache.tasks.registry import TASKS
from tests.pipelines.tiny_avqa import write_tiny_avqa

SMALL = [
    "lcd.heads=4",
    "head.negative_videos=4",
    "train.batch_size=8",
    "train.epochs=10",
    "train.learning_rate=0.01",
    "train.step_size=10",
]


def recipe(*overrides):
    return load_recipe("music-avqa-small", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_tiny_avqa(tmp_path_factory.mktemp("avqa") / "store.zarr")


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(store, recipe=recipe(), out=out)
    return out


def test_the_data_set_offers_every_column_that_the_task_reads():
    assert set(AvqaTask.sample_schema) <= set(SAMPLE_SCHEMA)


def test_it_answers_what_a_blind_model_cannot(store, run):
    report = evaluate(run, store=store)
    floor = report.floors["most frequent answer of the template"]
    assert report.scores["accuracy"] > floor + 30
    assert report.details["questions_of"] == "json_update"
    table = pq.read_table(report.predictions)
    right = np.array(table["answer"].to_pylist()) == np.array(table["prediction"].to_pylist())
    assert 100 * right.mean() == pytest.approx(report.scores["accuracy"])


def test_it_stands_beside_a_peer_s_row_and_says_whose(store, run):
    report = evaluate(run, store=store)
    assert "Mettle publishes no number" in str(report.paper["source"])
    assert report.paper["total_m"] is None
    assert "data: 24 test samples instead of 9185" in report.differs
    assert not any("selected on val" in line for line in report.differs)


def test_the_generic_recipe_serves_other_backbones(store):
    assert default_recipe(store) == "music-avqa-small"


def test_a_resumed_run_gives_the_same_bits(store, tmp_path, monkeypatch):
    short = recipe("train.epochs=3")
    whole = train(store, recipe=short, out=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(
            "mettle_cache.pipelines.train.run.Run.epochs_left", property(lambda self: range(self.history.epochs, 2))
        )
        train(store, recipe=short, out=tmp_path / "cut")
    resumed = train(store, recipe=short, out=tmp_path / "cut", resume=True, threads=1)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    files = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_heads_that_share_a_pass_get_what_they_get_alone(store, tmp_path):
    short = recipe("train.epochs=2")
    specs = [RunSpec(recipe=short, seed=seed, folder=tmp_path / "group", name=f"seed-{seed}") for seed in (0, 1)]
    group = train_runs(store, specs)
    alone = train(store, recipe=short, out=tmp_path / "alone", seed=1)
    assert [row["loss"] for row in group.heads[1].history] == [row["loss"] for row in alone.history]


def test_questions_about_videos_without_tokens_are_left_out_and_counted(tmp_path):
    store = write_tiny_avqa(tmp_path / "store.zarr", failed={"00000001", "00000033"})
    train(store, recipe=recipe("train.epochs=1"), out=tmp_path / "run")
    report = evaluate(tmp_path / "run", store=store)
    assert (report.samples, report.dropped, report.comparable) == (22, 2, False)
    assert "data: test samples left out because their clips have no tokens: 2" in report.differs


def test_negatives_are_other_videos_of_the_train_split(store):
    task, split = bind_task(recipe(), store), read_split(store, "train")
    loader = SampleLoader(store, task.layers, device=torch.device("cpu"))
    clips = store.samples["clip"].to_pylist()
    train_clips = {clips[row] for row in split.rows}
    inputs = training_inputs(task, split.rows, order_seed=0, epoch=0)
    for batch in loader.batches(split.rows, 8, inputs):
        read = [store.clips[index] for index in batch.tokens.clips]
        assert set(read) <= train_clips
        assert len(batch.inputs.rows) <= 4
        chosen = batch.inputs.tensors["negative_clip"]
        for own, drawn in zip(batch.rows, chosen.tolist(), strict=True):
            assert clips[own] not in {read[place] for place in drawn}


@pytest.mark.parametrize("overrides", [
    ["head.aggregate=all_layers", "layers=all"], ["method=linear"], ["head.negatives=raw", "head.negative_videos=all"],
])  # fmt: skip
def test_every_variant_trains_and_scores(store, tmp_path, overrides):
    train(store, recipe=recipe("train.epochs=1", *overrides), out=tmp_path / "run")
    assert 0 <= evaluate(tmp_path / "run", store=store).scores["accuracy"] <= 100


def test_a_head_of_one_meta_token_is_folded_and_one_of_two_is_kept(store, run, tmp_path):
    out = tmp_path / "folded.safetensors"
    report = export_run(run, out=out, store=store, repeats=1)
    assert set(report.folded) == {"visual", "audio"}
    head = load_exported(out)
    task, rows = bind_task(recipe(), store), read_split(store, "test").rows[:5]
    trained = Run(task, recipe().train, seed=0, device=torch.device("cpu"))
    trained.load_best(RunFolder(run))
    loader = SampleLoader(store, task.layers, device=torch.device("cpu"))
    (batch,) = loader.batches(rows, 5, evaluation_inputs(task, rows))
    with torch.no_grad():
        ours, exported = (
            model.eval()(batch.tokens.layers, **batch.inputs.tensors)["answer"] for model in (trained.model, head)
        )
    assert torch.allclose(ours, exported, atol=1e-4)
    train(store, recipe=recipe("train.epochs=1", "lcd.k_audio=2"), out=tmp_path / "two")
    report = export_run(tmp_path / "two", store=store, repeats=1)
    assert set(report.folded) == {"visual"}
    assert report.kept == {
        "audio": "this head uses each of its K = 2 meta-tokens, and a folded LCD gives their mean alone"
    }
    assert report.difference < 1e-5


def test_the_recipes_are_the_recommended_starting_point():
    specific, shared = (load_recipe(f"music-avqa-swin-{audio}") for audio in ("htsat", "shared"))
    for found in (specific, shared):
        assert (found.task, found.method, found.layers, found.method_options.dim) == ("avqa", "lcd", "last:1", "none")
        lcd = found.method_options
        assert (lcd.k_visual, lcd.k_audio, lcd.steps_visual, lcd.steps_audio) == (1, 1, 1, 1)
        assert (found.train.batch_size, found.train.epochs, found.train.step_size, found.train.gamma) == (
            32,
            30,
            8,
            0.1,
        )
        assert (found.head.aggregate, found.head.negatives, found.head.packed) == ("last_layer", "injected", False)
    assert (specific.train.learning_rate, specific.head.dim) == (1e-4, "none")
    assert (shared.train.learning_rate, shared.head.dim) == (8e-5, 512)


def test_the_paper_s_head_has_the_expected_size_and_no_published_total(monkeypatch):
    specific, shared = AvqaTask.published
    # docs/protocols/avqa.md, "Parameter accounting": 79.86 M for the recommended head, 9.03 M for LAVISH's width
    assert count_trainable(AvqaTask, specific) == pytest.approx(79.86e6, abs=0.02e6)
    assert count_trainable(AvqaTask, shared) < 33e6
    only = Registry("task", "mettle_cache.none", TaskRow, [TASKS.row("avqa")])
    monkeypatch.setattr("mettle_cache.pipelines.report.params.TASKS", only)
    assert params_table() == []
