"""Tables of real runs of a sweep: differences against the predictions themselves, and what stands below."""

import csv
import dataclasses
import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from mettle_cache.errors import RunError, UsageError
from mettle_cache.pipelines.compare.intervals import paired_interval
from mettle_cache.pipelines.evaluate.evaluation import evaluate_runs
from mettle_cache.pipelines.sweeps.start import plan_sweep_file, start_sweep_file
from mettle_cache.pipelines.sweeps.sweep_file import read_sweep
from mettle_cache.pipelines.tables.collecting import collect_tables
from mettle_cache.pipelines.tables.scored_runs import read_scored_runs
from mettle_cache.pipelines.tables.table import make_table
from mettle_cache.pipelines.tables.writing import csv_lines, markdown_lines, table_cells
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.run_folder import find_runs
from tests.pipelines.listener import Listener

FAST = ["lcd.dim=8", "lcd.heads=4", "train.learning_rate=3e-3", "train.epochs=1"]
ROWS = ("Remove", "Linear")


@pytest.fixture(scope="module")
def folder(tiny_store, tmp_path_factory):
    """Two rows of table 10, two seeds each, evaluated."""
    out = tmp_path_factory.mktemp("tables") / "table10"
    job = TrainJob(store=tiny_store(8, 4, 6).path, out=out)
    start_sweep_file(job, read_sweep("table10"), Listener(), common=FAST, rows=ROWS, seeds=[0, 1])
    evaluate_runs(find_runs(out), pictures=False)
    return out


@pytest.fixture(scope="module")
def table(folder):
    (table,) = collect_tables([folder, folder])  # named twice, shown once
    return table


def right(folder, row):
    """Percentages of right segments ``[seeds, clips]``, from the predictions."""
    rows = []
    for seed in (0, 1):
        found = pq.read_table(folder / row / f"seed-{seed}" / "predictions-test.parquet")
        rows.append(100 * (found["target"].to_numpy() == found["prediction"].to_numpy()).reshape(-1, 10).mean(1))
    return np.array(rows)


def test_rows_are_those_of_the_file_with_the_paper_s_numbers(folder, table):
    """The base is the last row, and Remove's printed number is that of other backbones."""
    assert [(row.name, row.paper, row.target) for row in table.rows] == [
        ("Remove", 80.5, False),
        ("Linear", 83.3, True),
    ]
    assert (table.base, table.metric, table.samples, table.source) == ("Linear", "accuracy", 6, "Mettle, Table 10")
    for row in table.rows:
        scores = right(folder, row.name).mean(1)
        assert list(row.scores.values()) == pytest.approx(list(scores))
        assert (row.mean, row.std) == (pytest.approx(scores.mean()), pytest.approx(scores.std(ddof=1)))


def test_differences_are_paired_by_seed_and_clip(folder, table):
    remove, linear = table.rows
    expected = paired_interval(right(folder, "Remove") - right(folder, "Linear"), range(6))
    assert remove.difference.mean == pytest.approx(expected.mean)
    assert dataclasses.replace(remove.difference.interval, grouped_by="") == expected
    assert linear.difference is None
    assert table.groups == {"clip": 6}


def test_the_widest_interval_over_clips_and_groups_is_taken(folder):
    clips = [f"test{number:03d}" for number in range(6)]
    (grouped,) = collect_tables([folder], groups={"picture": {clip: "ab"[n % 2] for n, clip in enumerate(clips)}})
    assert grouped.groups == {"clip": 6, "picture": 2}
    apart = right(folder, "Remove") - right(folder, "Linear")
    by_clip, by_picture = paired_interval(apart, clips), paired_interval(apart, [n % 2 for n in range(6)])
    wider = max(by_clip, by_picture, key=lambda interval: interval.high - interval.low)
    assert dataclasses.replace(grouped.rows[0].difference.interval, grouped_by="") == wider


def test_what_a_row_changes_is_no_difference_from_the_paper(table):
    """Neither the branch, which is Remove's, nor what recipes have in common is told for one row alone."""
    assert not any("pretrained_branch" in line for line in table.differs)
    assert any(line.startswith("recipe: lcd.dim = 8") for line in table.differs)
    assert "data: 6 test samples instead of 402" in table.differs
    assert "Remove: Table 9's" in table.warnings
    assert any("Remove row is Table 9's" in line for line in table.warnings)


def test_two_seeds_are_said_to_be_few(table):
    assert "two seeds say next to nothing of how much seeds differ, so their intervals are wide: train more" in (
        table.notes
    )


def test_one_seed_has_no_interval(folder):
    runs = [run for run in find_runs(folder) if run.name == "seed-1"]
    one = make_table(read_scored_runs(runs, "test"), split="test", sweep=read_sweep("table10"))
    assert one.rows[0].difference.interval is None
    assert one.rows[0].std is None
    assert "no interval: one seed says nothing of how much seeds differ" in one.notes
    assert "95 % interval" not in table_cells(one)[0]


def test_a_base_that_was_not_trained_is_told(folder):
    runs = read_scored_runs(find_runs(folder / "Remove"), "test")
    table = make_table(runs, split="test", sweep=read_sweep("table10"))
    assert table.rows[0].difference is None
    assert "there are no runs of the row 'Linear', so no differences from it" in table.notes


def test_runs_of_no_file_are_compared_with_the_first_or_the_one_that_is_named(folder):
    runs = read_scored_runs(find_runs(folder), "test")
    assert make_table(runs, split="test").base == "Linear"
    assert make_table(runs, split="test", base="Remove").rows[0].difference.mean == pytest.approx(
        right(folder, "Linear").mean() - right(folder, "Remove").mean()
    )
    with pytest.raises(UsageError, match="--base DP: no row is called so"):
        make_table(runs, split="test", base="DP")
    with pytest.raises(UsageError, match="two runs of 'Linear' have seed 0"):
        make_table([*runs, *runs], split="test")


def test_runs_of_an_earlier_version_have_no_interval(folder, tmp_path):
    """They kept no samples' scores."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    from mettle_cache.pipelines.train.run_folder import RunFolder

    run = RunFolder(copy / "Linear" / "seed-0")
    config = run.read_config()
    files = {name: digest for name, digest in config.files.items() if not name.startswith("samples-")}
    run.config.write_bytes(dataclasses.replace(config, files=files).to_bytes())
    (table,) = collect_tables([copy])
    assert table.rows[0].difference.without.startswith("an earlier version evaluated some runs")


def test_markdown_and_csv_have_the_same_cells(table):
    lines = markdown_lines(table)
    assert lines[0].startswith("**table10: LCD's linear branch")
    assert lines[2] == ("| row | seeds | test accuracy | minus Linear | 95 % interval | paper |")
    remove, linear = table.rows
    one = remove.difference
    assert lines[4] == (
        f"| Remove | 2 | {remove.mean:.2f} ± {remove.std:.2f} | {one.mean:+.2f} | "
        f"{one.interval.low:+.2f} to {one.interval.high:+.2f} | (80.5) |"
    )
    assert lines[5] == f"| Linear | 2 | {linear.mean:.2f} ± {linear.std:.2f} | - | - | 83.3 |"
    assert (
        "- paper: Mettle, Table 10, the published setting ave-swin-htsat; in brackets: nothing to compare with" in lines
    )
    first, second = csv.DictReader(io.StringIO("\n".join(csv_lines([table]))))
    assert (float(first["mean"]), float(first["low"]), first["target"]) == (remove.mean, one.interval.low, "False")
    assert (second["row"], second["difference"], second["paper"]) == ("Linear", "", "83.3")


def test_a_folder_above_a_sweep_says_where_the_sweeps_own_table_is(folder):
    with pytest.raises(RunError, match="there are sweeps below it") as error:
        collect_tables([folder.parent])
    assert error.value.hint == f"mettle report {folder}"
    shutil.copytree(folder / "Linear", folder.parent / "alone")
    (table,) = collect_tables([folder.parent])
    assert table.notes[-1] == f"{folder} is a sweep, whose own table is: mettle report {folder}"


def test_a_plan_to_go_on_looks_at_the_runs_that_are_there(folder, tiny_store):
    job = TrainJob(store=tiny_store(8, 4, 6).path, out=folder, resume=True)
    options = {"rows": ROWS, "seeds": [0, 1]}
    plan_sweep_file(job, read_sweep("table10"), Listener(), common=FAST, **options)
    with pytest.raises(RunError, match=r"the run here is another one: lcd\.dim") as error:
        plan_sweep_file(job, read_sweep("table10"), Listener(), common=[*FAST, "lcd.dim=24"], **options)
    assert error.value.hint == f"mettle sweep --resume --out {folder} goes on with it; or choose another --out"
