import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mettle_cache
from mettle_cache.errors import RunError, StoreCorruptError, UsageError
from mettle_cache.methods.lcd import LCD
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.sample_loader import SampleLoader
from mettle_cache.pipelines.train.training import train
from mettle_cache.tokens import FLOATS, LayerTokens, TokenBatch
from tests.methods.stock import stock_lcd
from tests.pipelines.listener import Listener
from tests.pipelines.tiny_store import make_samples

FAST = ["lcd.dim=16", "lcd.pretrained_branch=linear", "train.learning_rate=3e-3", "train.epochs=3"]
LONGER = [*FAST, "train.epochs=8"]
RECIPE = load_recipe("ave-small", FAST)


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 6)


class FloatStore:
    """A store whose tokens come as floats, as from the backbones themselves."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batches(self, order, **options):
        for batch in self.store.batches(order, **options):
            yield TokenBatch({n: LayerTokens(layer.floats(), FLOATS) for n, layer in batch.layers.items()}, batch.clips)


def curve(report):
    """The history without its timings."""
    return [{name: value for name, value in row.items() if name != "clips_per_second"} for row in report.history]


@pytest.mark.parametrize(
    "switches", [[], ["head.decoder=psp29"], ["method=linear"], ["lcd.k_visual=[2,1]", "lcd.steps_audio=2"]]
)
def test_heads_learn(store, tmp_path, switches):
    recipe = load_recipe("ave-small", [*LONGER, *switches])
    report = train(store, recipe=recipe, out=tmp_path / "run")
    losses = [row["loss"] for row in report.history]
    assert losses[-1] < 0.5 * losses[0]
    # background alone is 62 %
    assert report.best_score > 85


def test_same_seed_same_bits_other_seed_others(store, tmp_path):
    reports = [
        train(store, recipe=RECIPE, out=tmp_path / str(number), seed=seed) for number, seed in enumerate((0, 0, 1))
    ]
    assert curve(reports[0]) == curve(reports[1]) != curve(reports[2])
    best = [(tmp_path / str(number) / "best.safetensors").read_bytes() for number in range(3)]
    assert best[0] == best[1] != best[2]


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_reader_threads_changes_nothing(store, tmp_path, threads):
    expected = train(store, recipe=RECIPE, out=tmp_path / "three")
    assert curve(train(store, recipe=RECIPE, out=tmp_path / "other", threads=threads)) == curve(expected)
    best = [(tmp_path / run / "best.safetensors").read_bytes() for run in ("three", "other")]
    assert best[0] == best[1]


def test_a_store_by_its_path_is_the_store(store, tmp_path):
    expected = train(store, recipe=RECIPE, out=tmp_path / "open")
    assert curve(train(store.path, recipe=RECIPE, out=tmp_path / "path")) == curve(expected)


def test_a_store_s_path_is_all_that_the_library_needs(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = mettle_cache.train(str(store.path))
    assert (report.recipe, report.out) == ("ave-small", Path("runs/tiny-ave-small-0"))
    named = mettle_cache.train(str(store.path), recipe="ave-small", out="named")
    assert curve(named) == curve(report)
    assert (
        mettle_cache.evaluate("named", pictures=False).scores
        == mettle_cache.evaluate(report.out, store=str(store.path), pictures=False).scores
    )


@pytest.mark.parametrize("codec", ["float16", "int4"])
def test_heads_learn_from_every_codec(tiny_store, tmp_path, codec):
    report = train(tiny_store(16, 6, 6, codec=codec), recipe=load_recipe("ave-small", LONGER), out=tmp_path / "run")
    assert report.best_score > 85


def test_damage_stops_the_run_and_names_the_clip(tiny_store, tmp_path):
    path = shutil.copytree(tiny_store(6, 2, 2).path, tmp_path / "damaged.zarr")
    for shard in (path / "visual" / "s1").rglob("*"):
        if shard.is_file() and shard.name != "zarr.json":
            content = bytearray(shard.read_bytes())
            content[len(content) // 2] ^= 1
            shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match=r"clip train00\d"):
        train(path, recipe=RECIPE, out=tmp_path / "run")


def test_training_on_codes_and_on_the_floats_they_stand_for_is_the_same(store, tmp_path):
    ours = train(store, recipe=RECIPE, out=tmp_path / "codes")
    direct = train(FloatStore(store), recipe=RECIPE, out=tmp_path / "floats")
    for a, b in zip(curve(ours), curve(direct), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_absorbed_and_stock_attention_train_alike(store, tmp_path, monkeypatch):
    absorbed = train(store, recipe=RECIPE, out=tmp_path / "absorbed")
    monkeypatch.setattr(LCD, "forward", stock_lcd)
    stock = train(store, recipe=RECIPE, out=tmp_path / "stock")
    assert curve(absorbed) != curve(stock)
    for a, b in zip(curve(absorbed), curve(stock), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


class StopAfter(Listener):
    """Ctrl-C once an epoch has been noted; ``in_epoch`` waits for some of the next epoch's clips first."""

    def __init__(self, epoch, clips=0):
        super().__init__()
        self.epoch, self.clips, self.armed_at = epoch, clips, None

    def note(self, text):
        super().note(text)
        if text.startswith(f"epoch {self.epoch}/"):
            self.armed_at = self.done

    def advance(self, n=1, *, nbytes=0):
        super().advance(n, nbytes=nbytes)
        if self.armed_at is not None and self.done > self.armed_at + self.clips:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("epoch", "clips"), [(1, 0), (2, 8), (1, 17)])
def test_an_interrupted_run_goes_on_to_the_same_numbers(store, tmp_path, epoch, clips):
    whole = train(store, recipe=RECIPE, out=tmp_path / "whole")
    listener = StopAfter(epoch, clips)
    with pytest.raises(KeyboardInterrupt):
        train(store, recipe=RECIPE, out=tmp_path / "cut", progress=listener)
    assert (
        f"interrupted; go on after epoch {epoch} with: mettle train --resume --out {tmp_path}/cut" in listener.notes[-1]
    )
    heard = Listener()
    resumed = train(store, recipe=RECIPE, out=tmp_path / "cut", resume=True, progress=heard)
    assert f"resuming after epoch {epoch} of 3" in heard.notes
    assert curve(resumed) == curve(whole)
    assert (resumed.best_epoch, resumed.best_score) == (whole.best_epoch, whole.best_score)
    for name in ("best", "last"):
        ours, theirs = (load_checkpoint(tmp_path / run / f"{name}.safetensors")[0] for run in ("cut", "whole"))
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    log = (tmp_path / "cut" / "log.txt").read_text()
    assert log.count(" start ") == log.count(" end ") == 2
    assert re.findall(r"epoch (\d)/3: loss [\d.]+, val accuracy", log) == ["1", "2", "3"]
    told = [" error     interrupted", f"note      resuming after epoch {epoch} of 3", " result    best epoch"]
    assert sorted(told, key=log.index) == told


def test_resuming_a_finished_run_changes_nothing(store, tmp_path):
    first = train(store, recipe=RECIPE, out=tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    again = train(store, recipe=RECIPE, out=tmp_path / "run", resume=True)
    assert again.history == first.history
    assert again.clips_per_second == 0.0
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_the_best_epoch_is_the_latest_of_the_highest(store, tmp_path):
    report = train(store, recipe=load_recipe("ave-small", [*FAST, "train.epochs=6"]), out=tmp_path / "run")
    scores = [row["val_accuracy"] for row in report.history]
    assert report.best_score == max(scores)
    assert scores.count(max(scores)) > 1
    assert report.best_epoch == len(scores) - scores[::-1].index(max(scores))
    _, state = load_checkpoint(tmp_path / "run" / "best.safetensors")
    run = RunFolder(tmp_path / "run").read_config().identity
    assert state == {"epoch": report.best_epoch, "score": report.best_score, "store": store.key_digest, "run": run}


@pytest.mark.parametrize(("select_on", "column"), [("val", "val_accuracy"), ("test", "test_accuracy"), ("last", None)])
def test_selection(store, tmp_path, select_on, column):
    report = train(store, recipe=RECIPE, out=tmp_path / "run", select_on=select_on)
    columns = {name for name in report.history[0] if name.endswith("accuracy")}
    assert columns == ({column} if column else set())
    assert report.selected_on == select_on
    if select_on == "last":
        assert (report.best_epoch, report.best_score) == (3, None)
    assert any("selected on the test split" in note for note in report.notes) == (select_on == "test")


def test_without_val_samples_the_last_epoch_is_kept_and_said(tmp_path, tiny_store):
    listener = Listener()
    report = train(tiny_store(8, 0, 2), recipe=RECIPE, out=tmp_path / "run", progress=listener)
    assert (report.selected_on, report.best_epoch, report.best_score) == ("last", 3, None)
    assert "the val split has no samples: the last epoch is kept instead of the best" in listener.notes


@pytest.mark.parametrize(
    ("counts", "select_on", "message"),
    [((0, 2, 2), "val", "the train split has no samples"), ((2, 2, 0), "test", "no samples to select on")],
)
def test_empty_splits_are_refused_and_leave_no_folder(tmp_path, counts, select_on, message, tiny_store):
    with pytest.raises(UsageError, match=message):
        train(tiny_store(*counts), recipe=RECIPE, out=tmp_path / "run", select_on=select_on)
    assert not (tmp_path / "run").exists()


def test_samples_without_tokens_are_left_out_counted_and_reported(tmp_path, tiny_store):
    store = tiny_store(8, 4, 2, failed={"train005": "corrupt", "val001": "corrupt"})
    listener = Listener()
    report = train(store, recipe=RECIPE, out=tmp_path / "run", progress=listener)
    assert report.samples == {"train": 7, "val": 3}
    assert report.dropped == {"train": 1, "val": 1}
    assert any("have no tokens: 2;" in note and "not comparable" in note for note in listener.notes)


def test_a_recipe_that_does_not_fit_leaves_no_folder(store, tmp_path, tiny_store):
    for override, message in (
        ("lcd.heads=7", "not divisible by 7"),
        ("layers=visual", "none of the 3 layers is audio"),
    ):
        with pytest.raises(UsageError, match=message):
            train(store, recipe=load_recipe("ave-small", [override]), out=tmp_path / "run")
    with pytest.raises(UsageError, match="does not take the data set 'llp'"):
        train(tiny_store(1, 1, 1, dataset="llp"), recipe=RECIPE, out=tmp_path / "run")
    with pytest.raises(UsageError, match="no device called 'gpu9'"):
        train(store, recipe=RECIPE, out=tmp_path / "run", device="gpu9")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_trained_over(store, tmp_path):
    train(store, recipe=RECIPE, out=tmp_path / "run")
    with pytest.raises(RunError, match="a run is here already"):
        train(store, recipe=RECIPE, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"lcd.dim = 16 there, 256 was asked for"):
        train(store, recipe=load_recipe("ave-small"), out=tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_run_is_refused(store, tmp_path):
    train(store, recipe=RECIPE, out=tmp_path / "run")
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes((tmp_path / "run" / "best.safetensors").read_bytes())
    with pytest.raises(RunError, match=r"last.safetensors: not what the run's config.json lists"):
        train(store, recipe=RECIPE, out=tmp_path / "run", resume=True)


def test_records_agree_with_the_report(store, tmp_path):
    report = train(store, recipe=RECIPE, out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    with folder.metrics.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == report.history
    events = EventAccumulator(str(folder.events)).Reload()
    assert [event.value for event in events.Scalars("epoch/val_accuracy")] == pytest.approx(
        [row["val_accuracy"] for row in report.history]
    )
    assert [event.step for event in events.Scalars("step/loss")] == list(range(6))
    assert folder.read_result()["training"] == report.to_json()
    assert {entry.name for entry in folder.path.iterdir() if not entry.name.startswith(".")} == {
        "config.json",
        "best.safetensors",
        "last.safetensors",
        "metrics.csv",
        "events",
        "log.txt",
        "result.json",
        "tokens.json",
    }


def test_progress_counts_clips_and_bytes_and_shows_the_loss(store, tmp_path):
    listener = Listener()
    report = train(store, recipe=RECIPE, out=tmp_path / "run", progress=listener)
    assert listener.total == listener.done == 3 * (16 + 6)
    per_clip = store.read([0]).nbytes
    assert listener.nbytes == listener.total * per_clip
    assert listener.finished
    assert listener.notes[-1].startswith("epoch 3/3: loss ")
    assert "val accuracy" in listener.notes[-1]
    assert report.peak_memory_bytes > 0
    assert report.peak_memory_of == "process (RSS)"


@pytest.mark.parametrize(("method", "lines"), [("lcd", ["compiling", "train"]), ("linear", ["train"])])
def test_kernels_are_compiled_before_the_clock_of_training_starts(store, tmp_path, monkeypatch, method, lines):
    """Where a model pools tokens with them."""
    order = []
    monkeypatch.setattr(SampleLoader, "compile_kernels", lambda loader, rows, note: order.append("compiling"))
    monkeypatch.setattr(Listener, "start", lambda listener, total, unit, what: order.append(what))
    recipe = load_recipe("ave-small", [*FAST, "train.epochs=1", f"method={method}"])
    train(store, recipe=recipe, out=tmp_path / "run", progress=Listener())
    assert order == lines


def test_a_clip_of_two_samples_trains_both(tmp_path, tiny_store):
    samples = make_samples(4, 2, 2)
    assert len(set(samples["clip"].to_pylist())) == samples.num_rows - 1
    report = train(tiny_store(samples=samples), recipe=RECIPE, out=tmp_path / "run")
    assert report.samples == {"train": 4, "val": 2}
