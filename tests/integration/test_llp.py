"""LLP end to end on real pictures and recordings: compose, extract, verify, train from weak labels, evaluate.

Run with ``make test-real``. Prints one table: the segment-level Type@AV of LCD and of the linear probe, and the average
of the ten scores, against predicting nothing, for each codec. The scenes are composed, so no figure here may be
compared with a published one.
"""

import shutil
import statistics

import pytest

from tests.integration.conftest import evaluate_heads, extract_set

SIZES = ("--train", "120", "--val", "40", "--test", "80")
CODECS = ("float16", "int8", "int4")
SEEDS = "0-2"
METRIC = "segment_type_av"


@pytest.fixture(scope="module")
def table(compose, backbone, tmp_path_factory):
    rows = {}
    for codec in CODECS:
        folder = tmp_path_factory.mktemp("work")
        report = extract_set("llp", compose("llp", *SIZES), backbone, codec, folder / "store.zarr")
        lcd = evaluate_heads(folder / "store.zarr", folder / "lcd", SEEDS)
        probe = evaluate_heads(folder / "store.zarr", folder / "probe", SEEDS, "--set", 'method="linear"')
        rows[codec] = {
            "bytes": report["nbytes"],
            "LCD": [run["scores"][METRIC] for run in lcd],
            "probe": [run["scores"][METRIC] for run in probe],
            "average": [run["scores"]["average"] for run in lcd],
            "floor": lcd[0]["floors"]["nothing predicted"],
        }
        print_table(rows)
        shutil.rmtree(folder)
    return rows


def print_table(rows):
    print("\n| codec | MB | LCD | linear probe | nothing predicted | LCD, average of ten |\n|---|---|---|---|---|---|")  # noqa: T201
    for codec, row in rows.items():
        lcd, probe, average = (
            f"{statistics.mean(row[name]):.1f} ± {statistics.stdev(row[name]):.1f}"
            for name in ("LCD", "probe", "average")
        )
        print(f"| {codec} | {row['bytes'] / 1e6:.0f} | {lcd} | {probe} | {row['floor']:.1f} | {average} |")  # noqa: T201


@pytest.mark.realdata
@pytest.mark.parametrize("codec", CODECS)
def test_lcd_beats_predicting_nothing(table, codec):
    assert statistics.mean(table[codec]["LCD"]) > table[codec]["floor"] + 8


@pytest.mark.realdata
def test_int8_loses_nothing_against_float16(table):
    means = {codec: statistics.mean(table[codec]["LCD"]) for codec in ("float16", "int8")}
    assert abs(means["int8"] - means["float16"]) < 4
