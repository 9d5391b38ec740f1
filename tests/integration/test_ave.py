"""AVE end to end on real pictures and recordings: compose, extract, verify, train, evaluate, in both layouts.

Run with ``make test-real``. Prints one table: accuracy of LCD and of the linear probe, against the always-background
floor, for each layout and codec. The scenes are composed, so no figure here may be compared with a published one.
"""

import shutil
import statistics

import pytest

from tests.integration.conftest import extract_set, mettle

LAYOUTS = {"frames": (), "mp4": ("--layout", "mp4")}
CASES = (("frames", "float16"), ("frames", "int8"), ("frames", "int4"), ("mp4", "int8"))
SEEDS = (0, 1, 2)


def accuracies(store, folder, *switches):
    """Test accuracy of each seed, and the floor."""
    scores = []
    for seed in SEEDS:
        run = folder / f"run-{seed}"
        mettle("train", "--from-cache", store, "--seed", seed, "--out", run, *switches)
        result = mettle("evaluate", run)
        scores.append(result["scores"]["accuracy"])
        shutil.rmtree(run)
    return scores, result["floors"]["always background"]


@pytest.fixture(scope="module")
def table(compose, backbone, tmp_path_factory):
    rows = {}
    for layout, codec in CASES:
        root, folder = compose("ave", *LAYOUTS[layout]), tmp_path_factory.mktemp("work")
        store = folder / "store.zarr"
        report = extract_set("ave", root, backbone, codec, store)
        lcd, floor = accuracies(store, folder)
        probe, _ = accuracies(store, folder, "--set", 'method="linear"')
        rows[layout, codec] = {"bytes": report["nbytes"], "lcd": lcd, "probe": probe, "floor": floor}
        print_table(rows)
        shutil.rmtree(folder)
    return rows


def print_table(rows):
    print("\n| layout | codec | MB | LCD | linear probe | always background |\n|---|---|---|---|---|---|")  # noqa: T201
    for (layout, codec), row in rows.items():
        cells = [f"{statistics.mean(row[name]):.1f} ± {statistics.stdev(row[name]):.1f}" for name in ("lcd", "probe")]
        print(f"| {layout} | {codec} | {row['bytes'] / 1e6:.0f} | {cells[0]} | {cells[1]} | {row['floor']:.1f} |")  # noqa: T201


@pytest.mark.realdata
@pytest.mark.parametrize(("layout", "codec"), CASES)
def test_lcd_beats_the_floor_and_the_probe(table, layout, codec):
    row = table[layout, codec]
    lcd, probe = statistics.mean(row["lcd"]), statistics.mean(row["probe"])
    assert lcd > row["floor"] + 10
    assert lcd > probe + 3


@pytest.mark.realdata
def test_int8_loses_nothing_against_float16(table):
    means = {codec: statistics.mean(table["frames", codec]["lcd"]) for codec in ("float16", "int8")}
    assert abs(means["int8"] - means["float16"]) < 3
