"""A step without memory: what is said would fit, and what goes on."""

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train, train_runs
from tests.pipelines.train.test_training import FAST

RECIPE = load_recipe("ave-small", [*FAST, "train.batch_size=8"])


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 6)


@pytest.fixture
def memory_for(monkeypatch):
    """``memory_for(samples, error, seed)``: steps on more samples end with this error, of all runs or of one."""

    def limit(samples, error=None, seed=None):
        step = Run.compute_step

        def limited(run, tensors):
            if len(tensors.targets) > samples and seed in (None, run.seed):
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return step(run, tensors)

        monkeypatch.setattr(Run, "compute_step", limited)

    return limit


@pytest.mark.parametrize(
    "error",
    [None, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), MemoryError()],
)
def test_the_largest_batch_that_is_foretold_to_fit_is_named(store, tmp_path, memory_for, error):
    memory_for(4, error)
    with pytest.raises(RunError) as caught:
        train(store, recipe=RECIPE, out=tmp_path / "run")
    assert caught.value.message == "epoch 1, step 1: there is no memory on cpu for a batch of 8"
    hint = caught.value.hint
    assert hint.startswith("--set train.batch_size=4 is foretold to fit: a step takes about ")
    sizes = [text.split()[-1] for text in hint.split("about ")[1].split(", of ")[0].split(", ")]
    assert sizes == ["8", "4", "2", "1"]
    assert "may be taken beside the weights; --resident disk leaves 192 kB more" in hint
    # and so it does
    smaller = load_recipe("ave-small", [*FAST, "train.batch_size=4"])
    assert train(store, recipe=smaller, out=tmp_path / "smaller").epochs == 3


def test_no_batch_may_fit_at_all(store, tmp_path, memory_for):
    memory_for(0)
    with pytest.raises(RunError) as caught:
        train(store, recipe=RECIPE, out=tmp_path / "run", residency=Residency("disk"))
    assert caught.value.hint.startswith("not even 2 samples fit; ")


def test_a_head_without_memory_is_left_behind_and_the_others_go_on(store, tmp_path, memory_for):
    memory_for(4, seed=1)
    heads = [RunSpec(recipe=RECIPE, seed=seed, folder=tmp_path, name=f"seed-{seed}") for seed in range(2)]
    report = train_runs(store, heads)
    assert [head.epochs for head in report.heads] == [3, 0]
    assert "there is no memory" in report.heads[1].failure


def test_other_errors_are_what_they_are(store, tmp_path, memory_for):
    memory_for(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(store, recipe=RECIPE, out=tmp_path / "run")
