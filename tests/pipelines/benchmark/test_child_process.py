"""Work in a process of its own, and what a bench learns of its memory there."""

from pathlib import Path

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark.child_process import call_in_child

SCRIPT = "tests.pipelines.benchmark.child_script"


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


def test_the_answer_comes_back():
    assert call_in_child(SCRIPT, {"what": "double", "number": 21}) == {"doubled": 42}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"what": "die"}, r"was ended by SIGKILL\n  next: SIGKILL usually means that memory ran out"),
        ({"what": "refuse"}, "failed with code 2: no such thing"),
        ({}, "failed with code 1: KeyError: 'what'"),
    ],
)
def test_a_process_that_dies_says_how(request_, message):
    with pytest.raises(RunError, match=message):
        call_in_child(SCRIPT, request_)


def test_memory_is_counted_from_the_meter_on():
    block = 200 << 20
    found = call_in_child(SCRIPT, {"what": "allocate", "nbytes": block})
    assert found["total"] == block
    assert found["kind"] == "RSS of a process of its own"
    # pages of the interpreter come and go; a block of this size cannot hide among them
    assert found["held"] > 0.9 * block
    assert found["peak"] > 0.9 * block
    assert found["now"] < 0.5 * block
