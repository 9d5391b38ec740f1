"""Every file of a run, damaged in every way: a command names it, or gives the numbers of the undamaged run."""

import os
import shutil

import pytest
import torch

from mettle_cache.errors import MettleError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train
from tests.pipelines.train.test_training import StopAfter

RECIPE = load_recipe(
    "ave-small", ["method=linear", "linear.dim=4", "train.learning_rate=3e-3", "train.epochs=3", "train.batch_size=4"]
)


def flip(place):
    def damage(path, _others):
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def cut(share):
    def damage(path, _others):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data)) if share < 1 else -1])

    return damage


def delete(path, _others):
    path.unlink()


def swap(which):
    def damage(path, others):
        path.unlink()
        if (others[which] / path.name).exists():
            shutil.copy(others[which] / path.name, path)

    return damage


def make_folder(path, _others):
    path.unlink()
    path.mkdir()


def make_loop(path, _others):
    path.unlink()
    path.symlink_to(path)


def make_pipe(path, _others):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "flip-first": flip(0),
    "flip-header": flip(0.02),
    "flip-middle": flip(0.5),
    "flip-late": flip(0.9),
    "flip-last": flip(1),
    "empty": cut(0),
    "half": cut(0.5),
    "short": cut(1),
    "deleted": delete,
    "of-another-run": swap("another"),
    "of-another-epoch": swap("earlier"),
    "folder": make_folder,
    "loop": make_loop,
    "pipe": make_pipe,
}
QUICK = ("flip-middle", "deleted", "of-another-run", "pipe")


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 4)


def stop(store, out, epoch, **options):
    with pytest.raises(KeyboardInterrupt):
        train(store, recipe=RECIPE, out=out, progress=StopAfter(epoch), **options)


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """A finished run with an evaluation and an export, one stopped after two epochs, and runs to take files from."""
    folder = tmp_path_factory.mktemp("runs")
    train(store, recipe=RECIPE, out=folder / "finished")
    stop(store, folder / "stopped", 1)
    shutil.copytree(folder / "stopped", folder / "earlier")
    stop(store, folder / "stopped", 2, resume=True)
    train(store, recipe=RECIPE, out=folder / "another", seed=1)
    for name in ("finished", "stopped", "another"):
        evaluate(folder / name, store=store, pictures=False)
        export_run(folder / name, store=store, repeats=1)
    return folder


def weights(path):
    return load_checkpoint(path)[0]


def evaluated(run, store):
    return evaluate(run, store=store, pictures=False).scores


def exported(run, store):
    head = load_exported(export_run(run, store=store, repeats=1, out=run / "head.safetensors").out)
    return head.state_dict()


def resumed(run, store):
    report = train(store, recipe=RECIPE, out=run, resume=True)
    return {
        "epoch": torch.tensor([report.epochs, report.best_epoch]),
        **{
            f"{name}/{key}": value
            for name in ("best", "last")
            for key, value in weights(run / f"{name}.safetensors").items()
        },
    }


COMMANDS = {"evaluate": evaluated, "export": exported, "resume": resumed}


def same(ours, expected):
    if ours.keys() != expected.keys():
        return False
    return all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(expected[key])) for key in expected)


def names_in(run):
    return sorted(entry.name for entry in run.iterdir() if entry.is_file() and entry.name != ".lock")


def check(store, runs, tmp_path, kind, which, damage):
    expected = COMMANDS[which](shutil.copytree(runs / kind, tmp_path / "whole"), store)
    others = {"another": runs / "another", "earlier": runs / "earlier"}
    refused = {}
    for name in names_in(runs / kind):
        run = shutil.copytree(runs / kind, tmp_path / name)
        DAMAGES[damage](run / name, others)
        try:
            outcome = COMMANDS[which](run, store)
        except MettleError as error:
            refused[name] = error
        else:
            assert same(outcome, expected), f"{which} used {name}"
        shutil.rmtree(run)
    assert all(name in error.message and error.hint for name, error in refused.items())
    return refused


# what a command must read, and so must refuse
NEEDED = {
    "evaluate": {"best.safetensors"},
    "export": {"best.safetensors"},
    "resume": {"best.safetensors", "last.safetensors"},
}


@pytest.mark.parametrize("damage", QUICK)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_damaged_file_of_a_stopped_run(store, runs, tmp_path, command, damage):
    refused = check(store, runs, tmp_path, "stopped", command, damage)
    assert refused.keys() >= NEEDED[command]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finished", "stopped", "earlier"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_damaged_file(store, runs, tmp_path, command, damage, kind):
    check(store, runs, tmp_path, kind, command, damage)
