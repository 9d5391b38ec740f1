"""Every task from a ``klt`` store: training, evaluation, export, and the exported head on the store's codes."""

import pytest
import torch

from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.extract import run
from mettle_cache.pipelines.recode.config import RecodeConfig
from mettle_cache.pipelines.recode.run import recode
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from tests.datasets.avsbench_files import write_s4
from tests.pipelines.extraction import tiny
from tests.pipelines.tiny_avqa import write_tiny_avqa
from tests.pipelines.tiny_store import write_tiny_store

SMALL = ("train.epochs=1", "train.batch_size=4")
LCD = ("lcd.dim=16", "lcd.heads=4")


def recoded(store, codec, path):
    recode(RecodeConfig(store=store.path, codec=codec, out=path))
    return TokenStore.open(path)


def do_all(store, recipe, out):
    """Train an epoch, evaluate, export; gives the evaluation's and the export's report."""
    train(store, recipe=recipe, out=out)
    report, exported = evaluate(out, store=store, pictures=False), export_run(out, store=store, repeats=1)
    return report, exported, load_exported(exported.out)


@pytest.mark.parametrize(
    ("method", "codec"),
    [
        ("lcd", "klt1.5"),
        pytest.param("lcd", "klt0", marks=pytest.mark.slow),
        pytest.param("linear", "klt1.5", marks=pytest.mark.slow),
    ],
)
def test_event_localisation(method, codec, tmp_path):
    store = recoded(write_tiny_store(tmp_path / "float16.zarr", codec="float16"), codec, tmp_path / "klt.zarr")
    options = (*LCD, "lcd.k_visual=2", "lcd.k_audio=2") if method == "lcd" else ("linear.dim=16",)
    recipe = load_recipe("ave-small", [f'method="{method}"', *SMALL, *options])
    report, exported, head = do_all(store, recipe, tmp_path / "run")
    assert 0 <= report.scores["accuracy"] <= 100
    assert exported.difference < 1e-5
    assert set(exported.folded) == ({"visual", "audio"} if method == "lcd" else set())
    outputs = head(store.read([0, 1]).layers)
    assert all(torch.isfinite(output).all() for output in outputs.values())


@pytest.mark.slow
def test_question_answering(tmp_path):
    store = recoded(write_tiny_avqa(tmp_path / "avqa.zarr", codec="float16"), "klt1.5", tmp_path / "klt.zarr")
    recipe = load_recipe("music-avqa-small", [*SMALL, "lcd.heads=4", "head.negative_videos=4"])
    report, exported, _ = do_all(store, recipe, tmp_path / "run")
    assert 0 <= report.scores["accuracy"] <= 100
    assert exported.difference < 1e-5


@pytest.mark.slow
def test_segmentation(tmp_path):
    write_s4(tmp_path / "AVSBench_data")
    cnn = "test_efficientnet@64=random"
    config = tiny(
        tmp_path / "AVSBench_data", tmp_path / "s4.zarr", dataset="avs-s4", visual=cnn, audio="shared", codec="klt1.5"
    )
    run.extract(config)
    store = TokenStore.open(config.out)
    recipe = load_recipe("avs-s4-small", ["head.width=8", "lcd.heads=1", "train.epochs=1"])
    report, exported, _ = do_all(store, recipe, tmp_path / "run")
    assert 0 <= report.scores["miou"] <= 100
    assert set(exported.kept) == {"visual", "audio"}
