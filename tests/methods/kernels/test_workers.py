"""Threads that share work are waited for, whatever becomes of one of them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mettle_cache.methods.kernels.workers import share_out


def test_what_one_raised_is_raised_when_all_have_ended():
    ended, both = [], threading.Barrier(2)

    def take():
        if both.wait() == 0:
            raise ValueError("part 3")
        time.sleep(0.1)
        ended.append(1)

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="part 3"):
            share_out(take, pool, 2)
        assert ended == [1]
