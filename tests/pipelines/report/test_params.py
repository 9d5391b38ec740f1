import pytest

from mettle_cache.pipelines.report.params import count_trainable, params_table
from mettle_cache.tasks.avel.task import AvelTask

KEYS = {
    "setting",
    "total_m",
    "trainable_percent",
    "trained_m",
    "paper_total_m",
    "paper_trainable_percent",
    "difference_m",
    "counting",
}


@pytest.fixture(scope="module")
def table():
    return {row["setting"]: row for row in params_table()}


@pytest.mark.parametrize(
    ("setting", "total", "percent"),
    [
        ("ave-swin-htsat", 338.0, 23.0),
        ("ave-swin-shared", 364.4, 37.2),
        ("ave-vit-shared", 532.2, 38.8),
        ("ave-resnext-htsat", 151.6, None),
    ],
)
def test_totals_are_the_paper_s(table, setting, total, percent):
    row = table[setting]
    assert set(row) == KEYS
    assert (row["paper_total_m"], row["paper_trainable_percent"]) == (total, percent)
    assert row["total_m"] == pytest.approx(total, abs=0.05)
    assert row["difference_m"] == pytest.approx(row["total_m"] - total, abs=1e-3)
    if percent is not None:
        assert row["trainable_percent"] == pytest.approx(percent, abs=0.05)


def plain(width, tokens, steps=1):
    """docs/protocols/avs.md, "Building blocks": one distiller of three matrices a step."""
    return steps * (3 * width**2 + 3 * width) + width + tokens + 1


def injections(width, stages=(192, 384, 768)):
    return sum(width * stage + stage for stage in stages)


@pytest.mark.parametrize(
    ("setting", "total", "percent", "ours", "trained"),
    [
        (
            "avs-s4-swin-shared",
            257.2,
            11.1,
            257.58,
            2 * plain(1536, 36) + 2 * injections(1536),
        ),
        (
            "avs-s4-swin-htsat",
            291.7,
            21.6,
            291.86,
            plain(1536, 36, steps=2) + plain(768, 64) + 768 * 1536 + 1536 + 2 * injections(1536),
        ),
        (
            "avs-ms3-swin-htsat",
            291.7,
            21.6,
            284.78,
            plain(1536, 36) + plain(768, 64) + 768 * 1536 + 1536 + 2 * injections(1536),
        ),
    ],
)
def test_segmentation_totals_are_those_of_reading_a(table, setting, total, percent, ours, trained):
    """No reading fits all totals (docs/protocols/avs.md, "Readings of the published totals"); this is the nearest."""
    row = table[setting]
    assert (row["paper_total_m"], row["paper_trainable_percent"]) == (total, percent)
    assert row["total_m"] == pytest.approx(ours, abs=0.006)
    pyramid = 9_773_249 - 1_180_160 + 738_304
    assert row["trained_m"] == pytest.approx((trained + pyramid) / 1e6, abs=1e-3)
    assert "HTS-AT counted as trainable" in row["counting"]
    assert "No reading fits" in row["counting"]


def test_the_cnn_s_segmentation_total(table):
    row = table["avs-ms3-resnext-htsat"]
    assert (row["paper_total_m"], row["paper_trainable_percent"]) == (151.9, None)
    assert row["difference_m"] == pytest.approx(0.204, abs=0.006)


def attention_and_projection(width, tokens, count, dim):
    """docs/protocols/avel.md, "Parameter accounting": one distiller and its projection."""
    distiller = 4 * width**2 + 4 * width + 4 * width + count * width + tokens * count + count
    return distiller + (width * dim + dim if dim else 0)


SWIN = [(192, 2304)] * 2 + [(384, 576)] * 2 + [(768, 144)] * 18 + [(1536, 36)] * 2
HTSAT = [(96, 4096)] * 2 + [(192, 1024)] * 2 + [(384, 256)] * 6 + [(768, 64)] * 2
VIT = [(1024, 197)] * 24


@pytest.mark.parametrize(
    ("setting", "parts", "dim"),
    [
        ("ave-swin-htsat", [(SWIN, 2), (HTSAT, 1)], 256),
        ("ave-swin-shared", [(SWIN, 1), (SWIN, 1)], 256),
        ("ave-vit-shared", [(VIT, 1), ([(1024, 49)] * 24, 1)], None),
    ],
)
def test_trainable_counts_are_the_closed_form(setting, parts, dim):
    row = next(row for row in AvelTask.published if row.setting == setting)
    width = dim or 1024
    head = 4 * width**2 + 512 * width + 512 + 21_845
    expected = head + sum(attention_and_projection(*layer, count, dim) for layers, count in parts for layer in layers)
    assert count_trainable(AvelTask, row) == expected
