"""Pages of runs: their numbers, what they lack, what they refuse, and text that would be markup."""

import re
import statistics

import numpy as np
import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.page.build import MARKER, script_json, write_page
from mettle_cache.pipelines.page.options import PageOptions
from mettle_cache.pipelines.tables.collecting import collect_tables
from mettle_cache.pipelines.tables.writing import table_cells
from tests.pipelines.page import run_files
from tests.pipelines.page.run_files import DATASETS, HOSTILE, TABLES, write_run


def words_of(text):
    """What a reader sees of the markup, without the script and its data."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.mark.parametrize("task", TABLES)
def test_hostile_text_is_never_markup(task, tmp_path, page):
    write_run(tmp_path / "run", task)
    text, data, _ = page(tmp_path / "run")
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text
    assert "&lt;/script&gt;" in text
    assert HOSTILE in {item["id"] for item in data[0]["clips"]["items"]} | set(data[0]["clips"]["names"])


def test_json_in_a_script_ends_nothing():
    assert "<" not in script_json({"a": "</script><!--\u2028&"})


def test_numbers_are_those_of_the_table(tmp_path, page):
    for seed in (0, 1):
        write_run(tmp_path / "lcd" / f"seed-{seed}", seed=seed)
        write_run(tmp_path / "linear" / f"seed-{seed}", seed=seed, method="linear", numbers=seed + 5)
    (table,) = collect_tables([tmp_path])
    text, data, report = page(tmp_path)
    _, rows = table_cells(table)
    shown = words_of(text)
    for row in rows:
        assert all(cell is None or cell in shown for cell in row[1:])
    assert f"{table.rows[0].mean:.2f}" in shown
    assert report.runs == 4
    assert data[0]["runs"] == ["lcd/seed-0", "lcd/seed-1", "linear/seed-0", "linear/seed-1"]


def test_seeds_have_a_mean_a_spread_and_an_interval(tmp_path, page):
    terms = [write_run(tmp_path / f"seed-{seed}", seed=seed, samples=30) for seed in (0, 1, 2)]
    means = [float(np.mean(one)) for one in terms]
    shown = words_of(page(tmp_path)[0])
    assert f"{statistics.fmean(means):.2f}" in shown
    assert f"± {statistics.stdev(means):.2f} over 3 seeds" in shown


def test_what_is_not_evaluated_says_what_to_run(tmp_path, page):
    write_run(tmp_path / "run", evaluated=False)
    text, data, report = page(tmp_path / "run")
    assert f"mettle evaluate {tmp_path / 'run'}" in text
    assert data[0]["clips"] is None
    assert data[0]["curves"]["series"][0]["score"] == [20.0, 40.0, 60.0]
    assert any("not scored on test" in line for line in report.lacks)
    assert f"mettle evaluate {tmp_path / 'run'} --split val" in page(tmp_path / "run", split="val")[0]


def test_a_run_of_an_earlier_version_and_a_store_that_is_gone(tmp_path, page):
    write_run(tmp_path / "run", scores=False)
    text, data, report = page(tmp_path / "run")
    assert not data[0]["clips"]["confident"]
    assert any("no probabilities are kept" in line for line in report.lacks)
    assert any("gone.zarr cannot be told of" in line for line in report.lacks)
    assert any(line.startswith("no frames:") for line in report.lacks)
    assert all(line.split(":")[0] in words_of(text) for line in report.lacks)


def test_damaged_predictions_leave_the_rest(tmp_path, page):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "predictions-test.parquet").write_bytes(b"nothing")
    text, data, report = page(tmp_path / "run")
    assert data[0]["clips"] is None
    assert any("not what the run's config.json lists" in line for line in report.lacks)
    assert 'class="number"' in text
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(RunError):
        page(tmp_path / "run")


def test_a_table_of_an_unknown_form_is_shown_as_it_is(tmp_path, page, monkeypatch):
    def ragged(rng, samples, scores):
        table, clips, terms = run_files.avel_table(rng, samples, scores)
        return table.slice(1), clips, terms

    monkeypatch.setitem(run_files.TABLES, "avel", ragged)
    write_run(tmp_path / "run")
    _, data, report = page(tmp_path / "run")
    assert data[0]["clips"]["kind"] == "rows"
    assert len(data[0]["clips"]["items"]) == 23
    assert any("of no form that this page knows" in line for line in report.lacks)


def test_a_chapter_for_each_data_set(tmp_path, page):
    for task in TABLES:
        write_run(tmp_path / task, task)
    text, data, _ = page(tmp_path)
    assert len(data) == len(TABLES)
    assert all(f"on {dataset}</h1>" in text for dataset in DATASETS.values())
    with pytest.raises(UsageError, match="one folder cannot be"):
        page(tmp_path, root=tmp_path)


def test_other_samples_are_left_out(tmp_path, page):
    write_run(tmp_path / "one", samples=6)
    write_run(tmp_path / "two", samples=5, method="linear")
    _, data, report = page(tmp_path / "one", tmp_path / "two")
    assert data[0]["runs"] == ["one"]
    assert any("scored on other samples" in line for line in report.lacks)


def test_only_a_page_is_written_over(tmp_path, page):
    write_run(tmp_path / "run")
    out = tmp_path / "deep" / "page.html"
    first = page(tmp_path / "run", out=out)[0]
    assert MARKER in first[:600]
    page(tmp_path / "run", out=out)
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    out.write_text("<html>mine</html>")
    for place, words in (
        (out, "has not written"),
        (tmp_path / "page.txt", "a page is an HTML file"),
        (tmp_path, "this is a folder"),
    ):
        with pytest.raises(UsageError, match=words):
            write_page([tmp_path / "run"], PageOptions(out=place))
    assert out.read_text() == "<html>mine</html>"
