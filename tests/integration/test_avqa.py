"""MUSIC-AVQA end to end on real pictures and recordings: compose, extract, pre-train, train, evaluate.

Run with ``make test-real``. Prints one table: accuracy of the head against the most frequent answer of each question's
template, and how well the pre-training tells pairs, for each codec. The scenes are composed, so no figure here may be
compared with a published one.
"""

import shutil
import statistics

import pytest

from tests.integration.conftest import evaluate_heads, extract_set, mettle

CODECS = ("float16", "int8", "int4")
# 40 videos teach little more than the templates
SIZES = ("--train", "160", "--val", "24", "--test", "40")
SEEDS = "0-2"
FLOOR = "most frequent answer of the template"


@pytest.fixture(scope="module")
def table(compose, backbone, tmp_path_factory):
    rows = {}
    for codec in CODECS:
        folder = tmp_path_factory.mktemp("work")
        store, grounding = folder / "store.zarr", folder / "grounding.safetensors"
        report = extract_set("music-avqa", compose("avqa", *SIZES), backbone, codec, store)
        pretrained = mettle("pretrain-grounding", "--from-cache", store, "--out", grounding, "--epochs", "10")
        start = ("--set", f"head.init_grounding={grounding}")
        lcd = evaluate_heads(store, folder / "lcd", SEEDS, *start)
        rows[codec] = {
            "bytes": report["nbytes"],
            "LCD": [run["scores"]["accuracy"] for run in lcd],
            "floor": lcd[0]["floors"][FLOOR],
            "match": pretrained["accuracy"],
        }
        print_table(rows)
        shutil.rmtree(folder)
    return rows


def print_table(rows):
    print(f"\n| codec | MB | LCD | {FLOOR} | match |\n|---|---|---|---|---|")  # noqa: T201
    for codec, row in rows.items():
        lcd = f"{statistics.mean(row['LCD']):.1f} ± {statistics.stdev(row['LCD']):.1f}"
        print(f"| {codec} | {row['bytes'] / 1e6:.0f} | {lcd} | {row['floor']:.1f} | {row['match']:.1f} |")  # noqa: T201


@pytest.mark.realdata
@pytest.mark.parametrize("codec", CODECS)
def test_it_answers_better_than_a_blind_model(table, codec):
    assert statistics.mean(table[codec]["LCD"]) > table[codec]["floor"] + 2


@pytest.mark.realdata
@pytest.mark.parametrize("codec", CODECS)
def test_pictures_and_sounds_are_matched_better_than_by_chance(table, codec):
    assert table[codec]["match"] > 55
