"""Several heads through the commands: seeds, sweeps, and what is exported of them."""

import json

import pytest

from mettle_cache.cli.main import run

FAST = ("--set", "train.epochs=1", "--set", "lcd.heads=1", "--set", "lcd.dim=8")


@pytest.fixture
def heads(whole, tmp_path, mettle):
    """Two seeds of one recipe under ``tmp_path / "group"``."""
    out = tmp_path / "group"
    code, document, _ = mettle("train", "--from-cache", whole, "--seeds", "0-1", "--out", out, *FAST)
    assert code == 0
    return out, document


def test_seeds_make_a_folder_of_runs_and_one_document(heads, whole, mettle):
    out, document = heads
    assert [head["out"] for head in document["heads"]] == [str(out / "seed-0"), str(out / "seed-1")]
    (spread,) = document["summary"]
    assert spread["scores"] == [head["best_score"] for head in document["heads"]]
    assert document["bytes_read"] > 0
    code, alone, _ = mettle("train", "--from-cache", whole, "--seed", "1", "--out", out.parent / "alone", *FAST)
    assert code == 0
    assert alone["best_score"] == document["heads"][1]["best_score"]
    assert mettle("evaluate", out / "seed-1", "--no-pictures")[0] == 0


def test_a_group_resumes_and_is_not_trained_over(heads, whole, mettle):
    out, document = heads
    code, error, _ = mettle("train", "--from-cache", whole, "--seeds", "0-1", "--out", out, *FAST)
    assert code == 1
    assert "a run is here already" in error["error"]["message"]
    code, again, _ = mettle("train", "--from-cache", whole, "--seeds", "0-2", "--out", out, "--resume", *FAST)
    assert code == 0
    assert [head["best_score"] for head in again["heads"][:2]] == [head["best_score"] for head in document["heads"]]


def test_a_sweep_has_a_folder_a_variant(whole, tmp_path, mettle, capsys):
    out = tmp_path / "sweep"
    sweep = ("sweep", "--from-cache", whole, "--out", out, *FAST, "--set", "lcd.k_visual=1,2", "--seeds", "0,3")
    code, document, _ = mettle(*sweep)
    assert code == 0
    assert [spread["variant"] for spread in document["summary"]] == ["lcd.k_visual=1", "lcd.k_visual=2"]
    runs = [f"lcd.k_visual={k}/seed-{seed}" for k in (1, 2) for seed in (0, 3)]
    assert [head["out"] for head in document["heads"]] == [str(out / name) for name in runs]
    assert run([*map(str, sweep), "--resume"]) == 0
    words = capsys.readouterr().out
    for expected in (*runs, "±", "(2 heads), lcd.k_visual=2", "once for all 4 heads", f"mettle evaluate {out}"):
        assert expected in words


def test_a_failed_head_ends_in_exit_code_1_and_the_others_are_there(whole, tmp_path, mettle):
    code, document, err = mettle(
        *("sweep", "--from-cache", whole, "--out", tmp_path / "s", "--set", "lcd.heads=1", "--set", "train.epochs=2"),
        *("--set", "train.learning_rate=1e-4,1e30"),
    )
    assert code == 1
    good, bad = document["heads"]
    assert (good["failure"], good["epochs"], document["failed"]) == (None, 2, 1)
    assert "not finite" in bad["failure"]
    assert "learning_rate=1e30/seed-0 failed and is left behind" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--seeds", "0,1", "--seed", "2"], "--seed and --seeds exclude each other"),
        (["train", "--seeds", "zero"], "'zero' is no seed"),
        (["sweep", "--set", "lcd.dim=8,16", "--memory", "much"], "'much' is no size"),
        (["sweep", "--set", "lcd.k_visula=1,2"], "k_visual"),
        (["sweep", "--set", "lcd.k_visual"], "must be key=value"),
        (["sweep", "--variant", "lcd.dim=8", "--set", "lcd.dim=8,16"], "two options of the sweep set lcd.dim"),
        (["sweep", "--select-on", "luck"], "choose one of val, test, last"),
    ],
)
def test_mistakes_are_usage_errors_and_leave_nothing(whole, tmp_path, mettle, arguments, words):
    command, *rest = arguments
    code, document, _ = mettle(command, "--from-cache", whole, "--out", tmp_path / "out", *rest)
    assert code == 2
    assert words in document["error"]["message"] + str(document["error"]["hint"])
    assert not (tmp_path / "out").exists()


def test_the_folder_of_one_run_is_no_place_for_several(heads, whole, mettle):
    out, _ = heads
    code, document, _ = mettle("train", "--from-cache", whole, "--seeds", "5", "--out", out / "seed-0", *FAST)
    assert code == 1
    assert "this is the folder of one run" in document["error"]["message"]


def test_export_writes_a_file_that_says_what_it_saved(heads, mettle, capsys):
    out, _ = heads
    code, document, _ = mettle("export", out / "seed-0")
    assert code == 0
    assert document["out"] == str(out / "seed-0" / "folded.safetensors")
    assert document["parameters_after"] < document["parameters_before"]
    assert run(["export", str(out / "seed-0")]) == 0
    words = capsys.readouterr().out
    for expected in ("parameters", "latency", "times faster", "median of 9", "folded.safetensors"):
        assert expected in words
    assert json.loads(json.dumps(document)) == document


def test_a_group_is_evaluated_as_a_whole(heads, mettle, capsys):
    out, _ = heads
    code, document, _ = mettle("evaluate", out, "--no-pictures")
    assert code == 0
    assert [entry["run"] for entry in document["runs"]] == [str(out / "seed-0"), str(out / "seed-1")]
    assert len(document["summary"][0]["scores"]) == 2
    (out / "seed-0" / "best.safetensors").unlink()
    assert run(["evaluate", str(out / "seed-1"), str(out / "seed-0"), "--no-pictures"]) == 1
    words = capsys.readouterr().out
    for expected in (f"failed     {out / 'seed-0'}: ", "best.safetensors: missing", "(1 head)", "paper      "):
        assert expected in words


def test_one_run_is_one_document(heads, mettle):
    out, _ = heads
    code, document, _ = mettle("evaluate", out / "seed-0", "--no-pictures")
    assert (code, document["run"]) == (0, str(out / "seed-0"))
