"""``mettle train --online`` as users give it, wrong and right."""

import re
import shlex

import pytest

from tests.cli.conftest import BACKBONES

FAST = ("--set", "train.epochs=1", "--set", "lcd.dim=8", "--set", "layers=last:1", "--log", "none")


def test_a_run_without_a_store_is_trained_gone_on_with_evaluated_and_listed(folder, mettle):
    train = ("train", "--online", "--dataset", "ave", *BACKBONES, "--layers", "last:1")
    code, report, notes = mettle(*train, *FAST, "--out", "runs/a")
    assert (code, report["samples"]) == (0, {"train": 6, "val": 3})
    assert "went through the backbones" in notes
    assert not (folder / "cache").exists()
    # the same command again says how to go on; told to, it goes on
    assert mettle(*train, *FAST, "--out", "runs/a")[0] == 1
    code, report, _ = mettle("train", "--resume", "--out", "runs/a", "--set", "train.epochs=2")
    assert (code, report["epochs"]) == (0, 2)
    longer = [word.replace("epochs=1", "epochs=3") for word in FAST]
    code, report, _ = mettle(*train, *longer, "--out", "runs/a", "--resume")
    assert (code, report["epochs"]) == (0, 3)
    code, report, _ = mettle("evaluate", "runs/a", "--no-pictures")
    assert (code, report["samples"]) == (0, 3)
    code, listed, _ = mettle("ls")
    assert code == 0
    assert "runs/a" in str(listed)
    assert mettle("report", "runs/a")[0] == 0


def test_a_store_is_filled_where_an_extraction_would_put_it_and_completed_as_is_said(folder, mettle):
    words = ("--online", "--dataset", "ave", *BACKBONES, "--layers", "last:1", "--out", "runs/b", *FAST)
    code, _, notes = mettle("train", *words, "--fill-cache")
    assert code == 0
    (store,) = folder.glob("cache/*.zarr")
    (command,) = re.findall(r"This adds them: mettle (.*)", notes)
    code, report, _ = mettle(*shlex.split(command))
    assert (code, report["store"], report["written"]) == (0, str(store.relative_to(folder)), 3)
    assert mettle("evaluate", "runs/b", "--no-pictures")[0] == 0
    code, document, _ = mettle("train", *words[:-1], "none", "--out", "runs/c", "--fill-cache")
    assert code == 2
    assert "nothing to fill" in document["error"]["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--online", "--dataset", "ave", "--from-cache", "s.zarr"), "--online computes tokens anew"),
        (("--from-cache", "s.zarr", "--fill-cache"), "--fill-cache: these are for"),
        (("--online",), "--online needs the data set"),
        (("--online", "--dataset", "ave", "--resident", "memory"), "--resident memory"),
        (("--online", "--dataset", "eva"), "eva"),
        (("--online", "--dataset", "ave", "--codec", "int9"), "int9"),
        (("--online", "--dataset", "ave", "--select-on", "vol"), "--select-on vol"),
        (("--from-cache", "s.zarr", "--visual", "swinv2_l", "--option", "a=b"), "--visual, --option: these are for"),
        (("--resume", "--out", "runs/none", "--codec", "int8"), "--codec: these are for --online"),
        (("--dataset", "ave"), "--from-cache is missing"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(folder, mettle, words, said):
    code, document, _ = mettle("train", *words)
    assert code == 2
    assert said in document["error"]["message"]
    assert not (folder / "runs").exists()
