"""Numbers for people keep their magnitude: the text, read back, is the number to three digits."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.report.units import format_bytes, format_rate, format_seconds, parse_bytes

BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


@given(st.integers(0, 10**15))
def test_bytes_read_back(count):
    number, unit = format_bytes(count).split()
    assert math.isclose(float(number) * BYTES[unit], count, rel_tol=0.051, abs_tol=0.5)
    assert float(number) < 1000 or unit == "TB"


@given(st.floats(0, 1e7))
def test_seconds_read_back(seconds):
    parts = re.findall(r"([\d.]+) (\w+)", format_seconds(seconds))
    assert math.isclose(sum(float(n) * SECONDS[unit] for n, unit in parts), seconds, rel_tol=0.02, abs_tol=0.51)


@given(st.floats(1e-3, 1e6))
def test_rates_read_back(rate):
    assert math.isclose(float(format_rate(rate)), rate, rel_tol=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 s"), (42, "42 s"), (200, "3 min 20 s"), (18720, "5 h 12 min"), (183600, "2 d 3 h"), (59.9, "60 s")],
)
def test_durations_as_people_say_them(value, text):
    assert format_seconds(value) == text


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_what_cannot_be_known_is_a_question_mark(value):
    assert format_seconds(value) == "?"


def test_bytes_are_decimal():
    assert [format_bytes(n) for n in (0, 999, 999.6, 1000, 999_499, 999_500, 53_900_000, 223e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.0 kB",
        "999 kB",
        "1.0 MB",
        "53.9 MB",
        "223 GB",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("1.5 gb", 15 * 10**8), (" 512 MiB ", 2**29), ("64000000 B", 64 * 10**6), ("0.1kB", 100)],
)
def test_sizes_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@given(st.floats(1, 1e14))
def test_sizes_that_are_written_read_back(count):
    assert math.isclose(parse_bytes(format_bytes(count)), count, rel_tol=0.05, abs_tol=1)


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "8 G B", "1e9GB", "8XB", "9" * 5000 + "GB", "٨GB", "nan GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is no size") as caught:
        parse_bytes(text)
    assert "for example 8GB" in caught.value.hint
