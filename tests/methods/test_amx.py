"""Tiles of bytes are found where the processor has them, and left alone where the user says so."""

import os
import subprocess
import sys

import pytest

from mettle_cache.methods.amx import SWITCH, has_byte_tiles

QUESTION = "from mettle_cache.methods.amx import has_byte_tiles; print(has_byte_tiles())"


@pytest.mark.parametrize(("switch", "answer"), [("0", False), ("1", has_byte_tiles()), (None, has_byte_tiles())])
def test_the_switch_turns_tiles_off_and_never_on(switch, answer):
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    if switch is not None:
        environment[SWITCH] = switch
    found = subprocess.run(
        [sys.executable, "-c", QUESTION], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(answer)
