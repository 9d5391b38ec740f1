"""Loggers beside a training: chosen, remembered, and never its end."""

import errno
import os
from typing import ClassVar

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.loggers.protocol import LoggedRun
from mettle_cache.pipelines.train.loggers.registry import LOGGERS, parse_loggers
from mettle_cache.pipelines.train.loggers.run_loggers import MEMORY, RunLoggers, remembered
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train_runs
from mettle_cache.registry import LoggerRow
from tests.pipelines.listener import Listener

FAST = ["lcd.dim=16", "train.epochs=2"]


class Recorded:
    """Remembers what it was told; ``fails`` is the method that raises."""

    made: ClassVar = []
    fails = ""

    def __init__(self, run):
        self.run, self.calls = run, []
        self.identity = run.identity or f"id-{len(self.made)}"
        self.made.append(self)

    def _call(self, name, *what):
        self.calls.append((name, *what))
        if name == self.fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def scalars(self, values, *, step):
        self._call("scalars", dict(values), step)

    def images(self, pictures, *, step):
        self._call("images", sorted(pictures), step)

    def close(self, scores, status):
        self._call("close", dict(scores), status)


@pytest.fixture
def recorded():
    LOGGERS.register(LoggerRow("recorded", f"{__name__}:Recorded"))
    Recorded.made, Recorded.fails = [], ""
    yield Recorded
    LOGGERS.unregister("recorded")


def specs(folder, seeds=(0, 1), **changes):
    recipe = load_recipe("ave-small", [*FAST, *(f"{key}={value}" for key, value in changes.items())])
    return [RunSpec(recipe=recipe, seed=seed, folder=folder, name=f"seed-{seed}") for seed in seeds]


def test_every_head_of_a_pass_has_its_own_and_a_resume_goes_on_with_them(tiny_store, tmp_path, recorded):
    store = tiny_store(8, 4, 4)
    report = train_runs(store, specs(tmp_path / "heads"), log=("recorded",))
    for head, logger in zip(report.heads, recorded.made, strict=True):
        assert logger.run.folder == head.out
        assert (logger.run.name, logger.run.group) == (f"seed-{head.seed}", "heads")
        assert logger.run.settings["seed"] == head.seed
        assert logger.run.settings["lcd.dim"] == 16
        steps = [call[2] for call in logger.calls if call[0] == "scalars" and "step/loss" in call[1]]
        epochs = [call for call in logger.calls if call[0] == "scalars" and "epoch/loss" in call[1]]
        assert steps == list(range(len(steps)))
        assert [call[1]["epoch/val_accuracy"] for call in epochs] == [row["val_accuracy"] for row in head.history]
        assert [call[2] for call in epochs] == [len(steps) // 2, len(steps)]
        best = {"best/accuracy": head.best_score, "best/epoch": head.best_epoch}
        assert logger.calls[-1] == ("close", best, "finished")
        assert not RunFolder(head.out).events.exists()
    train_runs(store, specs(tmp_path / "heads", **{"train.epochs": 3}), resume=True)
    assert [logger.identity for logger in recorded.made] == ["id-0", "id-1", "id-0", "id-1"]


@pytest.mark.parametrize("fails", ["scalars", "close"])
def test_one_that_fails_is_told_once_and_costs_nothing(tiny_store, tmp_path, recorded, fails):
    heard = Listener()
    recorded.fails = fails
    report = train_runs(tiny_store(8, 4, 4), specs(tmp_path, [0]), log=("recorded", "tensorboard"), progress=heard)
    assert report.heads[0].epochs == 2
    (note,) = [note for note in heard.notes if "logger" in note]
    assert note == (
        "seed-0: the logger recorded fails ([Errno 28] No space left on device): the training goes on without it"
    )
    assert [call[0] for call in recorded.made[0].calls].count(fails) == 1
    assert list(RunFolder(report.heads[0].out).events.iterdir())


def test_what_cannot_be_made_is_left_out_and_a_damaged_memory_is_none(tmp_path):
    told = []
    run = LoggedRun(folder=tmp_path, name="a", group="")
    assert not RunLoggers(run, ["nosuch"], told.append)
    assert told == ["the logger nosuch fails (no logger is called 'nosuch'): the training goes on without it"]
    assert remembered(tmp_path) == {"nosuch": ""}
    for damage in ("{", "[1]", '{"wandb": 1}'):
        (tmp_path / MEMORY).write_text(damage)
        assert remembered(tmp_path) == {}


def test_names_are_checked_before_anything_runs(monkeypatch):
    assert parse_loggers(["tensorboard, tensorboard"]) == ("tensorboard",)
    assert parse_loggers(["none"]) == ()
    with pytest.raises(UsageError, match="none excludes the others"):
        parse_loggers(["none,tensorboard"])
    with pytest.raises(UsageError, match="no logger is called 'tensorbord'") as refused:
        parse_loggers(["tensorbord"])
    assert "did you mean tensorboard?" in refused.value.hint
    monkeypatch.setattr("mettle_cache.pipelines.train.loggers.registry.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--log wandb: the package wandb is not installed") as refused:
        parse_loggers(["wandb"])
    assert refused.value.hint == "pip install 'mettle-cache[wandb]'"
