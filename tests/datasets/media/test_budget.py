"""Clips that are decoded at once share a budget: they wait for each other, never for ever, and never beyond it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mettle_cache.datasets.media.allowance import clip_limit, take
from mettle_cache.datasets.media.budget import MEMORY, MemoryBudget, for_each_clip
from mettle_cache.datasets.media.fault import MediaFileError


class Watched:
    """Takes in several steps, and remembers the most that all have had at once."""

    def __init__(self, steps, size):
        self.steps, self.size = steps, size
        self.taken = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, number):
        for _ in range(self.steps):
            take(f"{number}.mp4", self.size)
            with self.lock:
                self.taken += self.size
                self.most = max(self.most, self.taken)
            time.sleep(0.001)
        with self.lock:
            self.taken -= self.steps * self.size
        return number


@pytest.mark.parametrize(("steps", "size"), [(1, 10), (5, 5), (25, 1), (1, 25)])
def test_all_get_done_within_the_budget(steps, size):
    watched, done = Watched(steps, size), []
    budget = MemoryBudget(100)
    threads = [threading.Thread(target=lambda n=n: [done.append(in_a_clip(budget, watched, n))]) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == list(range(12))
    assert 0 < watched.most <= 100


def in_a_clip(budget, work, number):
    with budget.clip():
        return work(number)


def test_a_budget_of_one_clip_decodes_one_after_the_other():
    watched = Watched(2, 5)
    with MemoryBudget(10, clip=10).in_use():
        assert for_each_clip(watched, range(8)) == list(range(8))
    assert watched.most == 10


def test_more_than_a_quarter_is_the_clips_failure_and_nobody_waits():
    with MemoryBudget(400).clip():
        assert clip_limit() == 100
        take("a.png", 60)
        with pytest.raises(MediaFileError, match=r"a\.png.*more than the"):
            take("a.png", 41)
        take("a.png", 40)


def test_the_usual_budget_is_four_clips_of_a_gigabyte():
    with MemoryBudget().clip():
        assert (MEMORY, clip_limit()) == (4 * 10**9, 10**9)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.budget import MemoryBudget, for_each_clip

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])

def decode(number):
    take(f"{number}.png", 15_000_000)
    pixels = np.ones(15_000_000, np.uint8)
    time.sleep(0.05)
    return int(pixels[number])

for_each_clip(lambda number: time.sleep(0.05), range(16))  # the threads' own
before = peak()
with MemoryBudget(int(sys.argv[1])).in_use():
    assert for_each_clip(decode, range(16)) == [1] * 16
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_a_process_stays_within_its_budget():
    """Sixteen clips of 15 MB."""
    grown = int(subprocess.run([sys.executable, "-c", CHILD, "64000000"], capture_output=True, check=True).stdout)
    assert 15_000_000 < grown < 64_000_000 + 8_000_000
