"""Segmentation end to end on real pictures and recordings: compose, extract, train, evaluate, for both subsets.

Run with ``make test-real``. Prints one table: mIoU and F-measure with meta-token injection, mIoU of the same decoder
without it, and the floors, for each codec. The scenes are composed, so no figure may be compared with a published one.
"""

import shutil
import statistics
from pathlib import Path

import pytest

from tests.integration.conftest import extract_set, mettle

CASES = tuple((dataset, codec) for dataset in ("avs-s4", "avs-ms3") for codec in ("float16", "int8", "int4"))
# what the composing program is told
SIZES = {
    "avs-s4": ("s4", "--train", "56", "--val", "28", "--test", "28"),
    "avs-ms3": ("ms3", "--train", "40", "--val", "12", "--test", "12"),
}
SEEDS = {"int8": "0-2", "float16": "0,1", "int4": "0,1"}


def evaluate(store, folder, root, codec, *, mti):
    """Evaluations of a run for each seed, with or without injection, and the artefacts of the first."""
    out = folder / f"mti-{mti}"
    switch = f"head.mti={str(mti).lower()}"
    mettle("train", "--from-cache", store, "--seeds", SEEDS[codec], "--out", out, "--set", switch)
    return mettle("evaluate", out, "--root", root)["runs"]


def measure(root, folder, backbone, dataset, codec):
    store = folder / "store.zarr"
    report = extract_set(dataset, root, backbone, codec, store)
    injected, plain = (evaluate(store, folder, root, codec, mti=mti) for mti in (True, False))
    pictures = Path(injected[0]["artefacts"])
    assert len(list((pictures / "masks").iterdir())) == injected[0]["details"]["frames"]
    assert (pictures / "overlay.png").stat().st_size > 10_000
    return {
        "bytes": report["nbytes"],
        "mti": [run["scores"]["miou"] for run in injected],
        "f": [run["scores"]["f_measure"] for run in injected],
        "plain": [run["scores"]["miou"] for run in plain],
        "floors": injected[0]["floors"],
    }


@pytest.fixture(scope="module")
def table(compose, backbone, tmp_path_factory):
    rows = {}
    for dataset, codec in CASES:
        root, folder = compose(*SIZES[dataset]), tmp_path_factory.mktemp("work")
        rows[dataset, codec] = measure(root, folder, backbone, dataset, codec)
        print_table(rows)
        shutil.rmtree(folder)
    return rows


def print_table(rows):
    names = ("mti", "f", "plain")
    print("\n| data | codec | MB | MTI mIoU | MTI F | without MTI | all foreground | all background |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|")  # noqa: T201
    for (dataset, codec), row in rows.items():
        cells = [f"{statistics.mean(row[name]):.1f} ± {statistics.stdev(row[name]):.1f}" for name in names]
        floors = [f"{value:.1f}" for value in row["floors"].values()]
        megabytes = f"{row['bytes'] / 1e6:.0f}"
        print(f"| {' | '.join([dataset, codec, megabytes, *cells, *floors])} |")  # noqa: T201


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "codec"), CASES)
def test_masks_beat_the_floors(table, dataset, codec):
    row = table[dataset, codec]
    assert min(row["mti"]) > max(row["floors"].values()) + 15


@pytest.mark.realdata
@pytest.mark.parametrize("dataset", ["avs-s4", "avs-ms3"])
def test_meta_tokens_beat_the_decoder_without_them(table, dataset):
    """Over all codecs and seeds together: one run's luck is as large as the gain."""
    mti, plain = (
        [score for key, row in table.items() if key[0] == dataset for score in row[n]] for n in ("mti", "plain")
    )
    assert statistics.mean(mti) > statistics.mean(plain) + 0.5


@pytest.mark.realdata
@pytest.mark.parametrize("dataset", ["avs-s4", "avs-ms3"])
def test_int8_loses_little_against_float16(table, dataset):
    float16, int8 = (statistics.mean(table[dataset, codec]["mti"]) for codec in ("float16", "int8"))
    assert int8 > float16 - 4
