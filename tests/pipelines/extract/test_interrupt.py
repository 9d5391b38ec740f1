"""The first signal asks, the second insists, and the handlers of before come back."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from mettle_cache.pipelines.extract.interrupt import signals_kept_from_children, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="trouble"), stop_on_signals():
        raise ValueError("trouble")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_get_an_event_that_stays_unset():
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_children_do_not_see_the_terminals_signals_but_this_process_does():
    wait = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with stop_on_signals() as stop, ExitStack() as cleanup:
        with signals_kept_from_children():
            child = cleanup.enter_context(subprocess.Popen(wait, stdout=subprocess.PIPE, text=True))
            cleanup.callback(child.kill)
            assert child.stdout.readline() == "up\n"
            # another thread of this process may take it at once: only the children are promised anything
            os.kill(os.getpid(), signal.SIGINT)
        # which would not wake this one from a long wait
        assert any(stop.wait(0.01) for _ in range(500))
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
