"""``mettle sweep`` with a sweep file: its rows, what of them is not possible, and going on."""

import pytest

from mettle_cache.cli.main import run

FAST = ("--set", "train.epochs=1", "--set", "lcd.heads=1", "--set", "lcd.dim=8", "--seeds", "0")
FILE = """
title = "widths"
base = "eight"
tasks = ["avel"]
[[rows]]
name = "eight"
overrides = ["lcd.dim=8"]
[[rows]]
name = "of a layer"
overrides = ["lcd.dim=8", "layers=visual/s9"]
[[rows]]
name = "no such"
overrides = ["lcd.dmi=8"]
"""


def test_a_table_s_rows_are_trained_each_under_its_name(whole, tmp_path, mettle, capsys):
    out = tmp_path / "table9"
    sweep = ("sweep", "table9", "--from-cache", whole, "--out", out, *FAST)
    code, document, _ = mettle(*sweep, "--plan")
    assert code == 0
    assert [head["row"] for head in document["heads"]] == ["DP only", "TS only", "TS and DP"]
    assert [len(one["heads"]) for one in document["passes"]] == [3]
    assert not out.exists()
    code, document, _ = mettle(*sweep, "--rows", "DP only,TS and DP")
    assert code == 0
    assert [head["out"] for head in document["heads"]] == [
        str(out / row / "seed-0") for row in ("DP-only", "TS-and-DP")
    ]
    assert [spread["variant"] for spread in document["summary"]] == ["DP only", "TS and DP"]
    capsys.readouterr()
    # the others, beside those that are there
    assert run([*map(str, sweep), "--resume"]) == 0
    words = capsys.readouterr().out
    for expected in ("TS-only/seed-0", f"mettle evaluate {out}", f"mettle report {out}"):
        assert expected in words
    assert mettle("sweep", "--resume", "--out", out)[0] == 0
    code, document, _ = mettle("sweep", "table6", *sweep[2:], "--resume")
    assert code == 1
    assert document["error"]["message"] == f"{out}: this folder holds the sweep table9"


def test_rows_that_are_not_possible_are_told_before_anything_runs(whole, tmp_path, mettle):
    (tmp_path / "widths.toml").write_text(FILE)
    code, document, _ = mettle("sweep", tmp_path / "widths.toml", "--from-cache", whole, "--out", tmp_path / "out")
    assert code == 2
    message, hint = document["error"]["message"], document["error"]["hint"]
    assert message.splitlines()[0] == f"widths: 2 of 3 rows are not possible on {whole}:"
    assert "  of a layer: layers 'visual/s9': no such layer: visual/s9" in message
    assert "(extract with --layers all, or with visual/s9 too)" in message
    assert "  no such: lcd.dmi: no such key; did you mean dim?" in message
    assert hint == "leave them out: --rows eight"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table11"], "the sweep table11 is for avs-s4, avs-ms3, and this store is for avel (ave)"),
        (["table9", "--rows", "DP"], "--rows: table9 has no row called DP"),
        (["table9", "--set", "lcd.dim=8,16"], "--set with several values"),
        (["table9", "--set", "lcd.task_specific=true"], "it sets lcd.task_specific itself"),
        (["table9", "--set", "lcd.dmi=16"], "dmi"),
    ],
)
def test_mistakes_are_usage_errors_and_leave_nothing(whole, tmp_path, mettle, arguments, words):
    code, document, _ = mettle("sweep", *arguments, "--from-cache", whole, "--out", tmp_path / "out")
    assert code == 2
    assert words in document["error"]["message"]
    assert not (tmp_path / "out").exists()
