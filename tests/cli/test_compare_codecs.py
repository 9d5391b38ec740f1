"""The command on a store of the tests' own: its document, its words, and what it refuses."""

import pytest

from mettle_cache.cli.compare_codecs import report_lines, verdicts
from mettle_cache.cli.main import run
from mettle_cache.pipelines.compare.intervals import Interval
from mettle_cache.pipelines.compare.report import CodecRow, CompareReport
from tests.pipelines.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_tiny_store(tmp_path_factory.mktemp("float16") / "store.zarr", 8, 0, 6, codec="float16").path


def test_a_table_and_a_document_of_the_same_numbers(store, tmp_path, mettle, capsys):
    command = ["compare-codecs", store, "--codecs", "float16", "--seeds", 2, "--set", "train.epochs=1"]
    command += ["--set", "lcd.dim=16", "--out", tmp_path / "out"]
    code, document, err = mettle(*command)
    assert code == 0
    assert [row["codec"] for row in document["rows"]] == ["float16", "klt0", "clipmean"]
    assert "training 2 heads" in err
    assert run([str(word) for word in command]) == 0
    shown = capsys.readouterr()
    assert "training" not in shown.err
    for row in document["rows"]:
        line = next(line for line in shown.out.splitlines() if line.startswith(row["codec"]))
        assert f"{row['score']:.2f} ± {row['spread']:.2f}" in line
    assert f"kept       {tmp_path / 'out'}" in shown.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--codecs", "klt3"), "did you mean klt2?"),
        (("--codecs", ""), "there is none to compare with float16"),
        (("--seeds", "1"), "needs 2 to 100"),
        (("--groups", "nosuch.csv"), "cannot be read"),
        (("--recipe", "ave-smal"), "did you mean ave-small?"),
        (("--split", "tests"), "did you mean test?"),
    ],
)
def test_mistakes_are_named(store, tmp_path, mettle, options, words):
    code, document, err = mettle("compare-codecs", store, "--out", tmp_path / "out", *options)
    assert (code, words in err + str(document)) == (2 if options[0] != "--groups" else code, True)
    assert code != 0
    assert not (tmp_path / "out").exists()


def row(codec, low, high):
    interval = None if codec == "float16" else Interval(mean=(low + high) / 2, low=low, high=high, groups=9)
    return CodecRow(codec=codec, clip_bytes=1000, score=50, spread=1, difference=interval, changed=0.1)


def report(*rows):
    return CompareReport(
        store="s.zarr",
        out="out",
        dataset="ave",
        recipe="r",
        metric="accuracy",
        split="test",
        samples=9,
        seeds=5,
        epochs=3,
        groups={"clip": 9},
        floors={"none": 1.0},
        seeds_change=0.3,
        rows=[row("float16", 0, 0), *rows],
    )


def test_a_set_on_which_the_controls_do_not_lose_says_nothing():
    good = row("klt2", -0.5, 0.5), row("int8", -0.2, 0.3)
    blind = report(*good, row("klt0", -1, 1), row("clipmean", -2, 0.1))
    assert verdicts(blind) == [
        "this set cannot judge any codec: the clip's mean token alone loses nothing that can be told"
    ]
    half = verdicts(report(*good, row("klt0", -1, 0), row("clipmean", -9, -8)))
    assert half[0].startswith("this set cannot judge klt:")
    assert half[1:] == ["int8: less than a point is lost, if anything"]


def test_a_set_on_which_they_lose_judges():
    rows = row("klt2", -0.5, 0.5), row("klt1.5", -1.5, -0.1), row("int4", -1.5, 0.5)
    found = report(*rows, row("klt0", -3, -1), row("clipmean", -9, -8))
    assert verdicts(found) == [
        "klt2: less than a point is lost, if anything",
        "klt1.5: it loses",
        "int4: a loss of more than a point cannot be excluded",
    ]
    assert any("-1.50 to -0.10" in line for line in report_lines(found))
