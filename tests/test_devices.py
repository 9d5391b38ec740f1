"""One device for all stages, sums in one order, memory that stays and memory that was taken."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from mettle_cache import devices
from mettle_cache.devices import choose_device, keep_freed_memory, peak_memory, peak_resident, prepare_process
from mettle_cache.errors import UsageError

COUNT = """
import resource
import torch
from mettle_cache.devices import keep_freed_memory

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
    counted = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True)
    assert int(counted.stdout) < 1000


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: ctypes)
    assert keep_freed_memory() is False


def test_without_a_name_the_best_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None) == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no device called 'gpu9'"):
        choose_device("gpu9")
    with pytest.raises(UsageError, match="PyTorch finds no GPU here"):
        choose_device("cuda")


def test_preparing_a_process_fixes_the_order_unless_the_user_has(monkeypatch):
    monkeypatch.delenv("MKL_CBWR", raising=False)
    prepare_process()
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    prepare_process()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_the_peak_is_that_of_the_memory_map(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t   123 kB\nVmRSS:\t 5 kB\n")
    assert peak_resident(status) == 123 * 1024
    # a system without such a file still has an answer
    assert peak_resident(tmp_path / "nowhere") > 0


def test_the_peak_says_what_it_is_of():
    block = b"x" * (64 << 20)
    taken, of = peak_memory(torch.device("cpu"))
    assert taken > len(block)
    assert of == "process (RSS)"


def test_random_numbers_follow_from_the_seed_and_leave_no_trace():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with devices.seeded(11):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), first)


def test_products_use_one_thread_inside_and_as_many_as_before_outside():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with devices.one_thread(torch.device("cpu")):
            assert torch.get_num_threads() == 1
            with devices.one_thread(torch.device("cpu")):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with devices.one_thread(torch.device("meta")):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
