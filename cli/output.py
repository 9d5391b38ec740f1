"""Where a command's words go: one JSON document or plain text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mettle_cache.errors import MettleError


@dataclass
class Mode:
    """What ``--json`` and ``--debug`` asked for; set while the arguments are parsed."""

    json: bool = False
    debug: bool = False


MODE = Mode()


def emit(document: Mapping[str, Any] | list[Any], lines: Iterable[str]) -> None:
    """Print a command's result: ``document`` with ``--json``, ``lines`` otherwise."""
    if MODE.json:
        _write(json.dumps(document, indent=2, default=_plain, allow_nan=False))
    else:
        _write("\n".join(lines))


def fail(message: str, *, kind: str, code: int, hint: str | None = None) -> int:
    """Report an error on stderr, and as the JSON document with ``--json``; returns the exit code."""
    if MODE.debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"  next: {hint}\n")
    if MODE.json:
        _write(json.dumps({"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}}, indent=2))
    return code


def fail_with(error: MettleError) -> int:
    """Report one of our own errors with its hint and exit code."""
    return fail(error.message, kind=type(error).__name__, code=error.exit_code, hint=error.hint)


def silence_broken_pipe() -> None:
    """Keep the interpreter from complaining at exit that nobody reads stdout any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    """What json cannot write by itself."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")
