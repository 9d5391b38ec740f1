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
    code, evaluated, _ = mettle("evaluate", sweep, "--no-pictures")
    assert code == 0
    code, document, _ = mettle("report", sweep)
    assert code == 0
    (table,) = document["tables"]
    assert [(row["mean"], row["std"]) for row in table["rows"]] == [
        (spread["mean"], spread["std"]) for spread in evaluated["summary"]
    ]
    assert run(["report", str(sweep), "--table"]) == 0
    words = capsys.readouterr().out.splitlines()
    assert words[0].split("  ")[0] == "row"
    assert [line.split("  ")[0] for line in words[1:3]] == ["lcd.k_visual=1", "lcd.k_visual=2"]
    assert run(["report", str(sweep), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| row | seeds | test accuracy | minus lcd.k_visual=1 |")
    assert run(["report", str(sweep), str(sweep / "lcd.k_visual=1"), "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_mistakes_are_usage_errors(sweep, tmp_path, mettle):
    (tmp_path / "groups.csv").write_text("clip\na\n")
    for arguments, words in (
        (["--format", "latex"], "--format latex: choose one of text, markdown, csv"),
        (["--groups", tmp_path / "groups.csv"], "the columns are clip"),
        (["--only", "timelines"], "--only chooses figures, and none are asked for"),
    ):
        code, document, _ = mettle("report", sweep, *arguments)
        assert code > 0
        assert words in document["error"]["message"]


def test_figures_of_runs_that_nobody_evaluated(sweep, mettle, tmp_path, capsys):
    folder = tmp_path / "figures"
    code, document, _ = mettle(
        "report", sweep, "--figures", folder, "--only", "learning-curves,loss-landscape", "--grid", 3
    )
    assert code == 0
    names = ["ave-learning-curves.png", "ave-learning-curves.svg", "ave-loss-landscape.png", "ave-loss-landscape.svg"]
    assert document["figures"] == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == names
    code, document, _ = mettle("report", sweep, "--figures", folder, "--only", "masks,landscape")
    assert code == 2
    assert "there is no figure 'landscape'" in document["error"]["message"]
    code, document, _ = mettle("report", sweep, "--figures", folder, "--grid", 4)
    assert code == 2
    assert "grid must be odd" in document["error"]["message"]
    code, document, _ = mettle("report", sweep, "--figures", folder, "--only", "masks")
    assert code == 1
    assert document["error"]["message"] == "none of the 4 runs gives a figure"


def test_a_page_has_the_numbers_of_the_table(sweep, mettle, data, tmp_path):
    assert mettle("evaluate", sweep)[0] == 0
    out = tmp_path / "page.html"
    code, document, _ = mettle("report", sweep, "--out", out, "--table", "--root", data)
    assert code == 0
    assert document["page"] == str(out)
    assert document["bytes"] == out.stat().st_size
    text = out.read_text("utf-8")
    for row in document["tables"][0]["rows"]:
        assert f"{row['mean']:.2f} ± {row['std']:.2f}" in text
    assert "data:image/jpeg" in text
    assert str(tmp_path) not in text
    code, document, _ = mettle("report", sweep, "--out", tmp_path / "sweep")
    assert code == 2
    assert document["error"]["hint"].endswith("sweep/report.html")
