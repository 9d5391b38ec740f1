"""Work in a process of its own, what a bench learns of its memory there, and what is saved for a backward pass."""

from pathlib import Path

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.benchmark.child_process import available_memory, call_in_child, counting_saved

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


def test_some_memory_is_available():
    assert available_memory(torch.device("cpu")) > 0


def test_what_is_kept_is_counted_once_and_what_was_given_is_not():
    x, weight = torch.randn(100), torch.randn(100, requires_grad=True)
    with counting_saved([x, weight]) as saved:
        # multiplication keeps x and the weight, which were given; exp keeps its result, of 100 floats
        y = (x * weight).exp()
        # so does this one, and it keeps y once more
        z = (y * y).sum()
    z.backward()
    assert saved.nbytes == 400


def test_views_of_one_storage_are_one_piece():
    weight = torch.randn(10, 10, requires_grad=True)
    x = torch.randn(10, 10)
    base = x.clone()
    with counting_saved([weight]) as saved:
        ((base[:5] @ weight).sum() + (base[5:] @ weight).sum()).backward()
    assert saved.nbytes == base.nbytes


def test_nothing_is_counted_without_a_graph():
    with counting_saved([]) as saved:
        torch.randn(10).exp()
    assert saved.nbytes == 0
