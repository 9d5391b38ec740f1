import ctypes
import subprocess
import sys

import pytest

from mettle_cache.pipelines.train import allocation
from mettle_cache.pipelines.train.allocation import keep_freed_memory

COUNT = """
import resource
import torch
from mettle_cache.pipelines.train.allocation import keep_freed_memory

assert keep_freed_memory()
def step():
    return [torch.ones(20 << 18) for _ in range(4)]
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_a_step_takes_the_memory_of_the_last_one():
    """Five steps of 80 MiB have 102,400 pages to clear, or none once blocks lie where they fit."""
    found = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True)
    assert int(found.stdout) < 1000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda _: ctypes)
    assert keep_freed_memory() is False
