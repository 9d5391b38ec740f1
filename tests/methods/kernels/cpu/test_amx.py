"""Tiles of bytes are found where the processor has them, and left alone where the user says so."""

import os
import subprocess
import sys

from mettle_cache.methods.kernels.cpu.amx import SWITCH

QUESTION = "from mettle_cache.methods.kernels.cpu.amx import has_byte_tiles; print(has_byte_tiles())"


def answer(**switch):
    """What a process says whose environment has this switch, or none."""
    environment = {name: value for name, value in os.environ.items() if name != SWITCH} | switch
    asked = [sys.executable, "-c", QUESTION]
    return subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_switch_turns_tiles_off_and_never_on():
    assert answer(**{SWITCH: "0"}) == "False"
    assert answer(**{SWITCH: "1"}) == answer() in ("True", "False")
