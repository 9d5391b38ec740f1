"""The table of wrong inputs names tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = (TESTS / "WRONG_INPUTS.md").read_text("utf-8")
# | a stereo array | is refused | datasets/media/test_waveform.py::test_stereo |
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| what is tried")]
NAME = re.compile(r"([\w/]+\.py)::(\w+)")


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_tests_that_exist(row):
    tried, happens, tests = (cell.strip() for cell in row.strip("|").split("|"))
    assert tried
    assert happens
    named = NAME.findall(tests)
    assert named, f"names no test: {tests}"
    for file, name in named:
        source = (TESTS / file).read_text("utf-8")
        assert re.search(rf"^\s*def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
