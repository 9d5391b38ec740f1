"""Heads in several passes: how they are split, and that it changes no number."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.head_size import HeadSize
from mettle_cache.pipelines.train.job import resume_runs
from mettle_cache.pipelines.train.passes import plan_passes, split_heads, train_passes
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder, find_runs
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train_runs
from tests.pipelines.listener import Listener

FAST = ["lcd.heads=4", "train.learning_rate=3e-3", "train.epochs=1"]
DIMS = (8, 16, 8)


def specs_in(folder, *changes):
    """One head for each set of overrides."""
    recipes = [load_recipe("ave-small", [*FAST, *several]) for several in changes]
    return [RunSpec(recipe=recipe, seed=n, folder=folder, name=f"v/seed-{n}") for n, recipe in enumerate(recipes)]


def count_weights(store, recipe):
    return sum(weight.numel() for weight in bind_task(recipe, store).build_model().parameters())


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 6)


@pytest.fixture(scope="module")
def together(store, tmp_path_factory):
    """Three heads from one pass."""
    out = tmp_path_factory.mktemp("together")
    group = train_runs(store, specs_in(out, *([f"lcd.dim={dim}"] for dim in DIMS)))
    return [(head.best_score, RunFolder(head.out).best.read_bytes()[-400:]) for head in group.heads]


@given(
    sizes=st.lists(st.builds(HeadSize, st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20),
    limit=st.integers(1, 200),
)
def test_passes_keep_the_order_fit_and_are_as_long_as_can_be(sizes, limit):
    """What heads hold adds up; of their steps the largest counts."""

    def needed(places):
        return sum(sizes[place].held for place in places) + max(sizes[place].step for place in places)

    parts = split_heads(sizes, limit)
    assert [place for part in parts for place in part] == list(range(len(sizes)))
    assert all(len(part) == 1 or needed(part) <= limit for part in parts)
    for part, following in pairwise(parts):
        assert needed([*part, following[0]]) > limit


def test_a_head_is_as_large_as_its_weights_moments_and_step(store, tmp_path):
    """Adam holds 12 bytes a weight; the same recipe is the same size; a wider head needs more."""
    same = plan_passes(specs_in(tmp_path, [], []), store, memory=1 << 40)
    assert (len(same.passes), same.notes()) == (1, [])
    changes = ("lcd.dim=8", "lcd.dim=64")
    narrow, wide = (plan_passes(specs_in(tmp_path, *[[one]] * 3), store, memory=1 << 40).needed[0] for one in changes)
    weights = [count_weights(store, load_recipe("ave-small", [*FAST, change])) for change in changes]
    assert wide - narrow >= 3 * 12 * (weights[1] - weights[0])
    # a step of the whole batch on top, which two samples were enough to tell
    assert 3 * 12 * weights[1] < wide < 3 * 12 * weights[1] + 50e6


def test_too_little_memory_makes_passes_with_the_numbers_of_one(store, together, tmp_path):
    specs = specs_in(tmp_path, *([f"lcd.dim={dim}"] for dim in DIMS))
    alone = max(plan_passes(specs[n : n + 2], store, memory=1).needed[0] for n in range(2))
    plan = plan_passes(specs, store, memory=alone)
    assert [len(one) for one in plan.passes] == [1, 1, 1]
    (note,) = plan.notes()
    assert "3 heads in 3 passes over the store, of 1 each" in note
    group = train_passes(store, plan)
    assert group.passes == 3
    assert [(head.best_score, RunFolder(head.out).best.read_bytes()[-400:]) for head in group.heads] == together


def test_heads_that_fit_nowhere_are_told(store, tmp_path):
    notes = plan_passes(specs_in(tmp_path, [], []), store, memory=1000).notes()
    assert "2 heads need more memory than that alone" in notes[1]


def test_other_batches_take_passes_of_their_own(store, tmp_path):
    changes = (["train.batch_size=2"], ["train.batch_size=4"], ["train.batch_size=2"])
    plan = plan_passes(specs_in(tmp_path, *changes), store)
    assert [[spec.seed for spec in one] for one in plan.passes] == [[0, 2], [1]]
    assert "other batch sizes and orders take passes of their own" in plan.notes()[0]
    group = train_passes(store, plan)
    assert [head.seed for head in group.heads] == [0, 2, 1]


class Impatient(Listener):
    """Ctrl-C as the second pass begins."""

    def start(self, total, unit, what):
        super().start(total, unit, what)
        self.started = getattr(self, "started", 0) + 1
        if self.started == 2:
            raise KeyboardInterrupt


def test_an_interrupted_pass_is_resumed_with_those_that_had_not_begun(store, together, tmp_path):
    out = tmp_path / "out"
    plan = plan_passes(specs_in(out, *([f"lcd.dim={dim}"] for dim in DIMS)), store, memory=1)
    listener = Impatient()
    with pytest.raises(KeyboardInterrupt):
        train_passes(store, plan, progress=listener)
    assert f"mettle train --resume --out {out}" in " ".join(listener.notes)
    assert len(find_runs(out)) == 3
    group = resume_runs(TrainJob(out=out, resume=True, memory=1), Listener())
    assert [(head.best_score, RunFolder(head.out).best.read_bytes()[-400:]) for head in group.heads] == together


def test_no_folder_is_touched_where_one_is_taken(store, tmp_path):
    specs = specs_in(tmp_path, *([f"lcd.dim={dim}"] for dim in DIMS))
    train_runs(store, specs[2:])
    with pytest.raises(RunError, match="a run is here already"):
        train_passes(store, plan_passes(specs, store, memory=1))
    assert [run.name for run in find_runs(tmp_path)] == ["seed-2"]
