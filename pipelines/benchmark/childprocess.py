"""Work in a process of its own: its memory starts from nothing, and ends with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mettle_cache.errors import MettleError, RunError

_TAIL = 400


def call_in_child(module: str, request: Mapping[str, object]) -> dict[str, Any]:
    """Run ``python -m module`` on a request and return its answer; both are JSON. See :func:`serve`.

    Raises
    ------
    RunError
        The process died; names the signal, or what it said last.
    """
    # isolated from the current folder, which may hold anything
    command = [sys.executable, "-P", "-m", module]
    child = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if child.returncode == 0:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return answer
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise RunError(
            f"a process of the bench was ended by {name}",
            hint="SIGKILL usually means that memory ran out: close other programs, or ask for fewer clips",
        )
    said = child.stderr.strip().splitlines() or ["nothing"]
    raise RunError(f"a process of the bench failed with code {child.returncode}: {said[-1][:_TAIL]}")


def serve(work: Callable[[dict[str, Any]], Mapping[str, object]]) -> None:
    """The other side of :func:`call_in_child`: answer the one request on stdin, on stdout."""
    try:
        answer = work(json.load(sys.stdin))
    except MettleError as error:
        sys.stderr.write(f"{error.message}\n".replace("\n", " "))
        sys.exit(error.exit_code)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
