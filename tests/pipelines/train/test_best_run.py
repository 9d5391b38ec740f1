"""A run that is rebuilt is the run that was trained; what it keeps serves where the store has lost it."""

import shutil

import torch

from mettle_cache.pipelines.figures.trained import TrainedRun
from mettle_cache.pipelines.train.best_run import best_run
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from tests.pipelines.train.test_kept_companions import FAST, write_store


def test_a_run_is_rebuilt_without_the_companions_that_its_store_has_lost(tmp_path):
    store, folder = write_store(tmp_path / "tiny.zarr"), RunFolder(tmp_path / "run")
    train(store, recipe=load_recipe("ave-small", FAST), out=folder.path)
    shutil.rmtree(store.path / "companions")
    bare = TokenStore.open(store.path)
    run, epoch = best_run(folder, folder.read_config(), bare, torch.device("cpu"))
    tensors, state = load_checkpoint(folder.best)
    assert epoch == state["epoch"] == 1
    weights = run.model.state_dict()
    assert weights.keys() == tensors.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())
    shown = TrainedRun.load(folder.path, "run", store=bare, device="cpu")
    assert shown.run.model.state_dict().keys() == tensors.keys()
