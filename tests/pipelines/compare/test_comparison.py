"""Comparisons on a tiny store: heads are those that ``train`` gives, and what is finished is not done again."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mettle_cache.errors import ConfigError, DatasetError, RunError, UsageError
from mettle_cache.pipelines.compare import comparison
from mettle_cache.pipelines.compare import heads as heads_module
from mettle_cache.pipelines.compare.comparison import SUBJECT_FILE, compare_codecs
from mettle_cache.pipelines.compare.config import CompareJob
from mettle_cache.pipelines.compare.intervals import paired_interval
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.pipelines.signals import InterruptedRunError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train
from tests.pipelines.listener import Listener

FAST = ("lcd.dim=16", "lcd.heads=4", "train.epochs=2", "train.learning_rate=3e-3")


@pytest.fixture(scope="module")
def store(tiny_store):
    """Of thirteen test clips one has no tokens."""
    return tiny_store(16, 0, 13, codec="float16", failed={"test012": "no media"})


def job_on(tokens, out, **changes):
    return CompareJob(
        **{"store": tokens.path, "out": out, "codecs": ("int8",), "seeds": 2, "overrides": FAST, **changes}
    )


@pytest.fixture(scope="module")
def compared(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    return compare_codecs(job_on(store, out))


def test_there_is_a_row_a_codec_and_the_controls_are_always_there(compared):
    assert [row.codec for row in compared.rows] == ["float16", "int8", "klt0", "clipmean"]
    assert compared.row("float16").difference is None
    assert compared.row("float16").changed == 0
    assert compared.row("clipmean").clip_bytes is None
    sizes = [compared.row(name).clip_bytes for name in ("float16", "int8", "klt0")]
    assert sizes == sorted(sizes, reverse=True)
    assert (compared.samples, compared.groups, compared.seeds) == (12, {"clip": 12}, 2)
    assert compared.notes == ["samples left out because their clips have no tokens: 1"]


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_heads_are_those_of_train(store, compared, tmp_path, codec):
    """Paired by seed, the heads of a codec are what training on a store in that codec gives."""
    place = store.path
    if codec != "float16":
        place = recode(RecodeConfig(store=store.path, codec=codec, out=tmp_path / "recoded.zarr")).store
    scores = []
    for seed in range(2):
        run = tmp_path / f"run-{seed}"
        train(place, recipe=load_recipe("ave-small", FAST), seed=seed, out=run, select_on="last")
        scores.append(evaluate(run, pictures=False).scores["accuracy"])
    row = compared.row(codec)
    assert row.score == pytest.approx(np.mean(scores))
    assert row.spread == pytest.approx(np.std(scores, ddof=1))


def test_differences_and_changes_are_those_of_the_kept_predictions(store, compared):
    """From the labels themselves: accuracy of each sample, and the share of labels that differ."""
    task = heads_module.bind_task(load_recipe("ave-small", FAST), store)
    rows = [row for row, clip in enumerate(store.samples["clip"].to_pylist()) if clip.startswith("test")][:12]
    labels = {
        name: np.stack([np.load(compared.out / f"{name}-seed-{seed}.npz")["labels"] for seed in range(2)])
        for name in ("float16", "clipmean")
    }
    right = {name: 100 * (found == task.labels[rows]).mean(-1) for name, found in labels.items()}
    expected = paired_interval(right["clipmean"] - right["float16"], range(12))
    row = compared.row("clipmean")
    assert dataclasses.replace(row.difference, grouped_by="") == expected
    assert row.changed == pytest.approx((labels["clipmean"] != labels["float16"]).mean())
    assert compared.seeds_change == pytest.approx((labels["float16"][0] != labels["float16"][1]).mean())


def test_it_is_json(compared):
    document = json.loads(json.dumps(compared.to_json(), default=str))
    assert [row["codec"] for row in document["rows"]] == [row.codec for row in compared.rows]
    assert document["judges_klt"] == (document["rows"][2]["difference"]["high"] < 0)


def test_finished_heads_are_taken_and_new_ones_trained(store, compared, monkeypatch):
    """A second run reads the files of the first; a further codec is trained on its own. What a kill left is removed."""
    (compared.out / "int8-work" / "seed-0").mkdir(parents=True)
    files = {path: path.stat().st_mtime_ns for path in compared.out.glob("*.npz")}
    again, asked = Listener(), []
    monkeypatch.setattr(heads_module, "_train", _noting(asked, heads_module._train))
    report = compare_codecs(job_on(store, compared.out, codecs=("int8", "int4")), again)
    assert asked == [[0, 1]]
    assert [row for row in report.rows if row.codec != "int4"] == compared.rows
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert not list(compared.out.glob("*-work"))


def _noting(asked, train_heads):
    def train_and_note(subject, tokens, seeds, *rest):
        asked.append(list(seeds))
        return train_heads(subject, tokens, seeds, *rest)

    return train_and_note


def test_an_interrupted_comparison_goes_on_to_the_same_numbers(store, compared, tmp_path):
    class Impatient(Listener):
        """Ctrl-C in the middle of the second codec's training."""

        def start(self, total, unit, what):
            super().start(total, unit, what)
            self.training = what == "train"
            self.codecs = getattr(self, "codecs", 0) + self.training

        def advance(self, n=1, *, nbytes=0):
            if self.training and self.codecs == 2:
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="the heads that are trained stay in"):
        compare_codecs(job_on(store, tmp_path / "out"), Impatient())
    assert (tmp_path / "out" / "float16-seed-1.npz").exists()
    report = compare_codecs(job_on(store, tmp_path / "out"))
    assert report.rows == compared.rows


def test_a_folder_holds_one_comparison(store, compared, tmp_path):
    with pytest.raises(RunError, match=r"another comparison \(train.epochs = 2 there, 3 here\)"):
        compare_codecs(job_on(store, compared.out, overrides=(*FAST, "train.epochs=3")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds something else"):
        compare_codecs(job_on(store, tmp_path / "mine"))
    (tmp_path / "mine" / SUBJECT_FILE).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        compare_codecs(job_on(store, tmp_path / "mine"))


def test_heads_of_another_kind_of_device_are_no_pairs(store, compared, monkeypatch):
    monkeypatch.setattr(comparison, "choose_device", lambda _: torch.device("cuda"))
    with pytest.raises(RunError, match=r"another comparison \(device = None there, cuda here\)"):
        compare_codecs(job_on(store, compared.out))


def test_a_damaged_file_of_predictions_is_named(store, compared):
    path = compared.out / "int8-seed-1.npz"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-40])
        with pytest.raises(RunError, match=r"int8-seed-1\.npz: a head's predictions cannot be read"):
            compare_codecs(job_on(store, compared.out))
    finally:
        path.write_bytes(content)


def test_wrong_requests_are_refused_before_anything_is_written(store, tiny_store, tmp_path):
    out, groups = tmp_path / "out", tmp_path / "groups.csv"
    groups.write_text("clip,picture\nnosuch,x\n")
    for changes, kind, words in (
        ({"codecs": ("int9",)}, ConfigError, "did you mean int8"),
        ({"codecs": ("int8", "int8")}, ConfigError, "twice"),
        ({"seeds": 1}, ConfigError, "needs 2 to 100"),
        ({"split": "tset"}, UsageError, "no split 'tset'"),
        ({"split": "val"}, UsageError, "no split 'val'"),
        ({"groups": groups}, DatasetError, "no line for 12 of 12 clips"),
        ({"overrides": ("lcd.dmi=3",)}, ConfigError, "dmi"),
        ({"store": tiny_store(16, 0, 12, codec="int8").path}, UsageError, "is in int8: what int8 has lost"),
    ):
        with pytest.raises(kind, match=words):
            compare_codecs(job_on(store, out, **changes))
    assert not out.exists()


def test_groups_widen_what_is_reported(store, compared, tmp_path):
    """Clips in three groups, the interval over which is wider than over twelve clips."""
    groups = tmp_path / "groups.csv"
    lines = [f"test{number:03d},{'abc'[number % 3]}" for number in range(12)]
    groups.write_text("\n".join(["clip,category", *lines]))
    report = compare_codecs(job_on(store, compared.out, groups=groups))
    assert report.groups == {"clip": 12, "category": 3}
    for row, plain in zip(report.rows[1:], compared.rows[1:], strict=True):
        assert row.difference.mean == plain.difference.mean
        assert row.difference.high - row.difference.low >= plain.difference.high - plain.difference.low
