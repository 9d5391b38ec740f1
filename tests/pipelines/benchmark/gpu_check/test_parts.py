"""One part after the other: what fails in one is its result."""

import sys
import types

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.gpu_check import parts
from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.parts import PARTS, Part, run_part
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting

ON_CPU = Setting(device=torch.device("cpu"), tiny=True)


@pytest.fixture
def part_that(monkeypatch):
    """A part whose module's ``run`` is a given function."""

    def make(run):
        name = f"{parts.__package__}.made_up"
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(run=run))
        return Part("made_up", "for a test", ())

    return make


def refuse(_setting):
    raise UsageError("there is no folder tests here")


def divide(_setting):
    yield Finding(what="first", value=1 / 0, unit="")


@pytest.mark.parametrize(
    ("run", "state", "reason"),
    [
        (lambda _: [Finding(what="a", value=1.0, unit="s")], "done", ""),
        (lambda _: [Finding(what="a", value=1.0, unit="s", passed=False)], "failed", "wrong: a"),
        (refuse, "failed", "there is no folder tests here"),
        (divide, "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_states(part_that, run, state, reason):
    result = run_part(part_that(run), ON_CPU)
    assert (result.part, result.state, result.reason) == ("made_up", state, reason)


def test_a_part_says_which_packages_it_lacks():
    result = run_part(Part("kernels", "", ("torch", "no_such_package", "nor_this")), ON_CPU)
    assert (result.state, result.reason) == ("skipped", "it lacks the packages no_such_package, nor_this")


def test_every_part_has_what_it_needs_here():
    assert list(PARTS) == ["tests", "kernels", "step", "extract", "online"]
    assert all(part.lacking() == () for part in PARTS.values())
