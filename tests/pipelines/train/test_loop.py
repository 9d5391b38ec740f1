"""Several heads from one pass over a store: the numbers of each alone, the bytes read once."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mettle_cache.errors import RunError, StoreCorruptError, UsageError
from mettle_cache.pipelines.logged import Logged
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.loop import predict_split
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.residency import Residency
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, Split
from mettle_cache.pipelines.train.shared_pass import SharedPass
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train, train_runs
from tests.pipelines.listener import Listener
from tests.pipelines.train.test_training import StopAfter, curve
from tests.pipelines.train.train_script import main

FAST = ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=3"]
HEADS = {
    "seed-0": ([], 0),
    "seed-1": ([], 1),
    "wide/seed-0": (["lcd.k_visual=2", "lcd.dim=24"], 0),
    "probe/seed-2": (["method=linear", "train.epochs=2"], 2),
    "stages/seed-0": (["layers=stages", "train.epochs=4", "head.decoder=psp29"], 0),
}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 6)


def specs(folder, names=tuple(HEADS)):
    return [
        RunSpec(
            recipe=load_recipe("ave-small", [*FAST, *HEADS[name][0]]), seed=HEADS[name][1], folder=folder, name=name
        )
        for name in names
    ]


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """Every head by itself: its folder and report."""
    folder = tmp_path_factory.mktemp("alone")
    reports = {spec.name: train(store, recipe=spec.recipe, out=spec.out, seed=spec.seed) for spec in specs(folder)}
    return folder, reports


def assert_as_alone(folder, alone, names=tuple(HEADS)):
    for name in names:
        for file in ("best", "last"):
            ours, theirs = (load_checkpoint(place / name / f"{file}.safetensors")[0] for place in (folder, alone[0]))
            assert set(ours) == set(theirs)
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


class Counting:
    """A store that remembers which clips it was asked for, and with which layers."""

    def __init__(self, store):
        self.store, self.asked, self.wanted = store, [], set()

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batches(self, order, **options):
        self.wanted.add(tuple(options["layers"]))
        for batch in self.store.batches(order, **options):
            self.asked.extend(batch.clips)
            yield batch


def test_each_head_gets_the_bits_that_it_gets_alone(store, tmp_path, alone):
    report = train_runs(store, specs(tmp_path))
    assert_as_alone(tmp_path, alone)
    for head, name in zip(report.heads, HEADS, strict=True):
        assert head.out == tmp_path / name
        assert curve(head) == curve(alone[1][name])
        assert (head.best_epoch, head.best_score) == (alone[1][name].best_epoch, alone[1][name].best_score)
        assert json.loads((head.out / "result.json").read_text())["training"] == head.to_json()


def test_every_clip_is_read_once_an_epoch_whatever_the_number_of_heads(store, tmp_path):
    counts = []
    for number in (1, 2, 4):
        counting = Counting(store)
        three = [
            RunSpec(
                recipe=load_recipe("ave-small", FAST), seed=seed, folder=tmp_path / str(number), name=f"seed-{seed}"
            )
            for seed in range(number)
        ]
        report = train_runs(counting, three, residency=Residency("disk"))
        counts.append(sorted(counting.asked))
        assert report.bytes_read == 3 * (16 + 6) * store.read([0]).nbytes
    assert counts[0] == counts[1] == counts[2]
    assert len(counts[0]) == 3 * (16 + 6)


def test_what_the_heads_hold_together_is_said_before_they_start(store, tmp_path):
    heard = Listener()
    report = train_runs(store, specs(tmp_path, ["seed-0", "wide/seed-0"]), progress=heard)
    parameters = sum(head.parameters for head in report.heads)
    said = (
        f"2 heads together: {parameters / 1e6:.1f} M parameters, {format_bytes(12 * parameters)} with their optimisers"
    )
    assert heard.notes[0] == said


@pytest.mark.parametrize(("rows", "steps"), [(6, 2), (7, 3), (3, 1), (2, 1)])
def test_a_smaller_last_batch_is_a_step_too(store, rows, steps):
    loader = SampleLoader(store, store.layers, device=torch.device("cpu"))
    split = Split("train", tuple(range(rows)), ())
    shared = SharedPass(
        loader=loader, batch_size=3, order_seed=0, train=split, selection=None, progress=Logged(Silent())
    )
    assert shared.steps == steps == len(list(loader.batches(split.rows, 3)))


def test_a_head_that_fails_is_asked_no_more_and_its_first_error_stands(store):
    class Failing(Run):
        asked = 0

        def predict(self, batch):
            self.asked += 1
            if self.asked > 1:
                raise RunError(f"batch {self.asked}")
            return super().predict(batch)

    recipe = load_recipe("ave-small", FAST)
    device = torch.device("cpu")
    failing, healthy = (kind(bind_task(recipe, store), recipe.train, seed=0, device=device) for kind in (Failing, Run))
    loader, split = SampleLoader(store, store.layers, device=device), Split("test", tuple(range(8)), ())
    error, predictions = predict_split([failing, healthy], loader, split, 2, Silent())
    assert (failing.asked, str(error)) == (2, "batch 2")
    whole = healthy.predict(next(loader.batches(split.rows, 8)))
    assert {name: values.shape for name, values in predictions.items()} == {
        name: values.shape for name, values in whole.items()
    }
    assert (predictions["labels"] == whole["labels"]).all()


def test_layers_that_no_head_wants_are_not_read(store, tmp_path):
    counting = Counting(store)
    one = load_recipe("ave-small", [*FAST, "layers=visual/s2b02,audio/s1b01"])
    two = load_recipe("ave-small", [*FAST, "layers=visual/s1,audio/s1"])
    train_runs(
        counting,
        [RunSpec(recipe=recipe, seed=0, folder=tmp_path, name=str(i)) for i, recipe in enumerate((one, two))],
    )
    assert counting.wanted == {("visual/s1b01", "visual/s2b02", "audio/s1b01")}


def test_a_group_is_not_trained_over_and_refusal_touches_nothing(store, tmp_path):
    train_runs(store, specs(tmp_path, ["seed-1"]))
    with pytest.raises(RunError, match="seed-1: a run is here already"):
        train_runs(store, specs(tmp_path, ["seed-0", "seed-1"]))
    assert not (tmp_path / "seed-0").exists()


def test_a_recipe_that_does_not_fit_leaves_no_folder(store, tmp_path):
    wrong = RunSpec(recipe=load_recipe("ave-small", ["lcd.heads=7"]), seed=0, folder=tmp_path, name="wrong")
    with pytest.raises(UsageError, match="not divisible by 7"):
        train_runs(store, [*specs(tmp_path, ["seed-0"]), wrong])
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_added_to_a_group_with_resume(store, tmp_path, alone):
    train_runs(store, specs(tmp_path, ["seed-0"]))
    before = (tmp_path / "seed-0" / "last.safetensors").read_bytes()
    counting, heard = Counting(store), Listener()
    train_runs(counting, specs(tmp_path, ["seed-0", "seed-1"]), resume=True, progress=heard)
    assert (tmp_path / "seed-0" / "last.safetensors").read_bytes() == before
    assert_as_alone(tmp_path, alone, ["seed-0", "seed-1"])
    assert heard.total == heard.done == len(counting.asked) == 3 * (16 + 6)
    assert "seed-0: finished already, after 3 epochs; --set train.epochs=N makes it longer" in heard.notes


@pytest.mark.parametrize("ahead", [{"seed-0": 1}, {"seed-0": 2, "wide/seed-0": 1}, {"probe/seed-2": 1, "seed-1": 3}])
def test_heads_at_different_epochs_go_on_together(store, tmp_path, alone, ahead):
    """A kill between the saves of an epoch leaves the first heads one epoch ahead of the others."""
    for name, epochs in ahead.items():
        (spec,) = specs(tmp_path, [name])
        if epochs == spec.recipe.train.epochs:
            train(store, recipe=spec.recipe, out=spec.out, seed=spec.seed)
            continue
        with pytest.raises(KeyboardInterrupt):
            train(store, recipe=spec.recipe, out=spec.out, seed=spec.seed, progress=StopAfter(epochs, 4))
    report = train_runs(store, specs(tmp_path), resume=True)
    assert_as_alone(tmp_path, alone)
    assert [curve(head) for head in report.heads] == [curve(alone[1][name]) for name in HEADS]


def test_ctrl_c_says_how_to_go_on_with_the_group(store, tmp_path, alone):
    listener = StopAfter(2, 5)
    with pytest.raises(KeyboardInterrupt):
        train_runs(store, specs(tmp_path), progress=listener)
    assert f"interrupted; go on after epoch 2 with: mettle train --resume --out {tmp_path}" in listener.notes[-1]
    train_runs(store, specs(tmp_path), resume=True)
    assert_as_alone(tmp_path, alone)


def diverging(folder, *overrides):
    """A head whose first steps leave nothing finite."""
    recipe = load_recipe("ave-small", [*FAST, "train.learning_rate=1e30", *overrides])
    return RunSpec(recipe=recipe, seed=0, folder=folder, name="diverging", variant="train.learning_rate=1e30")


def test_a_head_that_diverges_is_left_behind_and_the_others_go_on(store, tmp_path, alone):
    heard = Listener()
    report = train_runs(store, [diverging(tmp_path), *specs(tmp_path)], progress=heard)
    assert_as_alone(tmp_path, alone)
    failed, *others = report.heads
    assert "not finite" in failed.failure
    assert all(head.failure is None for head in others)
    assert json.loads((tmp_path / "diverging" / "result.json").read_text())["training"]["failure"] == failed.failure
    assert any(note.startswith("diverging failed and is left behind: ") for note in heard.notes)
    assert [str(error) for error in report.errors] == [str(report.errors[0])]
    assert [(spread.variant, spread.failed) for spread in report.summary] == [("train.learning_rate=1e30", 1), ("", 0)]
    assert heard.done == heard.total


def test_a_pass_without_healthy_heads_ends_early(store, tmp_path):
    counting = Counting(store)
    report = train_runs(counting, [diverging(tmp_path, "train.batch_size=2")])
    assert len(report.errors) == 1
    assert len(counting.asked) < 16, "not even the first epoch is read to its end"


def test_a_head_that_fails_alone_raises_and_leaves_its_reason(store, tmp_path):
    with pytest.raises(RunError, match="not finite"):
        train(store, recipe=diverging(tmp_path).recipe, out=tmp_path / "run")
    assert "not finite" in json.loads((tmp_path / "run" / "result.json").read_text())["training"]["failure"]


def test_damage_stops_all_heads(tiny_store, tmp_path):
    path = shutil.copytree(tiny_store(6, 2, 2).path, tmp_path / "damaged.zarr")
    for shard in (path / "visual" / "s1").glob("c.*"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match=r"clip train00\d"):
        train_runs(path, specs(tmp_path / "runs"))


def start(store, out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pipelines.train.train_script", str(store.path), str(out), "0-2"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def kill_after(store, out, lines, delay):
    child = start(store, out)
    for _ in range(lines):
        child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)


def finish(store, out):
    """As the script does, in this process, which has loaded the libraries."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    main(str(store.path), str(out), "0-2")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """Three seeds that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    finish(store, out)
    return out


def assert_same_runs(out, whole):
    for seed in range(3):
        ours, theirs = out / f"seed-{seed}", whole / f"seed-{seed}"
        assert (ours / "best.safetensors").read_bytes() == (theirs / "best.safetensors").read_bytes()
        weights, expected = (load_checkpoint(run / "last.safetensors")[0] for run in (ours, theirs))
        assert all(torch.equal(weights[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_kill_9_between_the_saves_of_an_epoch(store, tmp_path, whole):
    """The lines of an epoch come one by one, each after its head's save."""
    kill_after(store, tmp_path, 4, 0)
    finish(store, tmp_path)
    assert_same_runs(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kill_9_at_any_moment(store, tmp_path, whole, seed):
    chance = random.Random(seed)
    for _ in range(3):
        kill_after(store, tmp_path, chance.randrange(1, 12), chance.random() * 0.05)
    finish(store, tmp_path)
    assert_same_runs(tmp_path, whole)
