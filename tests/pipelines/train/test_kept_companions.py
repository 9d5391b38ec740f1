"""A head that reads companions of its store is trained, resumed, scored and exported, and the store may lose them."""

import shutil
from dataclasses import replace

import pytest
import torch

from mettle_cache.companions import CompanionFile
from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.evaluate import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.kept_companions import kept_companions
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from mettle_cache.store.companions import keep_companion
from tests.methods.late_bundles import late_block, late_companion
from tests.pipelines.tiny_store import LAYERS, write_tiny_store

FAST = ["method=sherl", "sherl.dim=16", "train.epochs=1"]
# the blocks that are replayed: the store has the visual one, too, and lacks the one of sound
LATE = {"late-visual.safetensors": (LAYERS[1], LAYERS[2]), "late-audio.safetensors": (LAYERS[4], None)}


def write_store(path):
    store = write_tiny_store(path, 8, 4, 4)
    for name, (before, layer) in LATE.items():
        layer = layer or replace(before, block=2)
        tensors = late_companion(before, layer, heads=2, post=True).tensors
        keep_companion(path, name, tensors, late_block(before, layer, heads=2, post=True).describe(store.key_digest))
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sherl")
    store = write_store(folder / "tiny.zarr")
    train(store, recipe=load_recipe("ave-small", FAST), out=folder / "run")
    return store, RunFolder(folder / "run")


def test_a_run_keeps_copies_and_no_frozen_weights_in_its_checkpoints(trained):
    store, folder = trained
    kept = kept_companions(folder)
    assert kept.keys() == LATE.keys()
    for name, companion in kept.items():
        assert companion.path == folder.path / f"companion-{name}"
        assert companion.path.read_bytes() == (store.path / "companions" / name).read_bytes()
    tensors, _ = load_checkpoint(folder.best)
    assert not [name for name in tensors if "late" in name]
    assert bind_task(load_recipe("ave-small", FAST), store).layers == (LAYERS[0], LAYERS[1], LAYERS[3], LAYERS[4])


def test_the_run_and_an_exported_head_do_without_the_store_s(trained, tmp_path):
    store, folder = trained
    run, path = tmp_path / "run", tmp_path / "tiny.zarr"
    shutil.copytree(folder.path, run)
    shutil.copytree(store.path, path)
    shutil.rmtree(path / "companions")
    moved = TokenStore.open(path)
    with pytest.raises(UsageError, match=r"there is no late-visual\.safetensors beside the store"):
        bind_task(load_recipe("ave-small", FAST), moved)

    longer = load_recipe("ave-small", [*FAST, "train.epochs=2"])
    resumed = train(moved, recipe=longer, out=run, resume=True)
    whole = train(store, recipe=longer, out=tmp_path / "whole")
    assert resumed.history[-1]["loss"] == whole.history[-1]["loss"]
    assert evaluate(run, store=moved, pictures=False).scores == evaluate(tmp_path / "whole", pictures=False).scores

    report = export_run(run, store=moved, repeats=1)
    assert (report.method, report.folded, report.kept) == ("sherl", {}, {})
    head = load_exported(report.out)
    model = bind_task(longer, moved, kept_companions(RunFolder(run))).build_model()
    model.load_state_dict(load_checkpoint(run / "best.safetensors")[0])
    layers = moved.read([0, 5]).layers
    with torch.no_grad():
        for name, value in model.eval()(layers).items():
            assert torch.equal(head(layers)[name], value)
    assert head.visual.late.get_buffer("qkv_weight").abs().sum() > 0


def test_a_run_s_damaged_copy_is_told(trained, tmp_path):
    _, folder = trained
    shutil.copytree(folder.path, tmp_path / "run")
    copy = tmp_path / "run" / "companion-late-audio.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"companion-late-audio\.safetensors: not what the run's config\.json lists"):
        evaluate(tmp_path / "run", pictures=False)


def test_other_methods_keep_none(trained, tmp_path):
    store, _ = trained
    train(store, recipe=load_recipe("ave-small", ["method=linear", "train.epochs=1"]), out=tmp_path / "run")
    assert kept_companions(RunFolder(tmp_path / "run")) == {}
    assert kept_companions(RunFolder(tmp_path / "none")) == {}
    assert isinstance(store.companions["late-audio.safetensors"], CompanionFile)
