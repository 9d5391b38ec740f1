"""``mettle report`` on real runs."""

import pytest

from mettle_cache.cli.main import run

FAST = ("--set", "train.epochs=1", "--set", "lcd.heads=1", "--set", "lcd.dim=8")


@pytest.fixture
def sweep(whole, tmp_path, mettle):
    out = tmp_path / "sweep"
    arguments = ("--from-cache", whole, "--out", out, "--seeds", "0-1", *FAST, "--set", "lcd.k_visual=1,2")
    assert mettle("sweep", *arguments)[0] == 0
    return out


def test_runs_must_have_been_evaluated(sweep, mettle):
    code, document, _ = mettle("report", sweep)
    assert code == 1
    assert "4 of 4 runs have no scores on test" in document["error"]["message"]
    assert document["error"]["hint"].endswith(f"mettle evaluate {sweep}")


def test_a_row_a_variant(sweep, mettle, capsys):
    code, evaluated, _ = mettle("evaluate", sweep)
    assert code == 0
    code, document, _ = mettle("report", sweep)
    assert code == 0
    (table,) = document["tables"]
    assert [(row["mean"], row["std"]) for row in table["rows"]] == [
        (spread["mean"], spread["std"]) for spread in evaluated["summary"]
    ]
    assert run(["report", str(sweep)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["row", "seeds", "test", "accuracy"]
