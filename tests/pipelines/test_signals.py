"""What signals do to a program that uses the library, and to a command."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mettle_cache.pipelines.signals import stop_on_signals


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


COMMAND = """
import sys, threading, time, types

def sleep():
    print("up", flush=True)
    time.sleep(30)

def wait_for_a_thread():
    threading.Thread(target=time.sleep, args=(30,)).start()
    sleep()

def import_something():
    try:
        sleep()
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import")

class Dying:
    def __del__(self):
        sleep()

def lose_it():
    Dying()
    time.sleep(30)

def take_no_notice():
    try:
        sleep()
    except KeyboardInterrupt:
        sleep()

# in place of the command line, as if it were still being imported
module = types.ModuleType("mettle_cache.cli.main")
module.main = {what}
sys.modules[module.__name__] = module
from mettle_cache.__main__ import main
main()
"""


def start(what):
    command = [sys.executable, "-c", COMMAND.replace("{what}", what)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    return child


def finish(child):
    started = time.monotonic()
    _, err = child.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return child.returncode, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["sleep", "wait_for_a_thread", "import_something", "lose_it"])
def test_a_command_ends_with_a_message_and_130_whatever_it_does(what, number):
    child = start(what)
    child.send_signal(number)
    code, err = finish(child)
    assert code == 130
    assert "stopping" in err
    assert "error: interrupted" in err


def test_a_second_signal_ends_a_command_at_once():
    child = start("take_no_notice")
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGTERM)
    assert finish(child)[0] == 130
