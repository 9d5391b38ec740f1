"""Where a command's words go: one JSON document or plain text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from mettle_cache.cli.table import labelled_lines
from mettle_cache.errors import MettleError
from mettle_cache.pipelines.report.text import encodable, printable


@dataclass
class Mode:
    """What ``--json`` and ``--debug`` asked for; set while the arguments are parsed."""

    json: bool = False
    debug: bool = False


MODE = Mode()


def emit(document: Mapping[str, Any] | list[Any], lines: Iterable[str]) -> None:
    """Print a command's result: ``document`` with ``--json``, ``lines`` otherwise.

    On a terminal long lines such as ``note       a sentence`` are broken under their sentence.
    """
    if MODE.json:
        _write_json(document)
        return
    shown = [printable(line) for line in lines]
    if sys.stdout.isatty():
        width = get_terminal_size().columns
        shown = [part for line in shown for part in labelled_lines(line, width)]
    _write("\n".join(shown))


def fail(message: str, *, kind: str, code: int, hint: str | None = None) -> int:
    """Report an error on stderr, and as the JSON document with ``--json``; returns the exit code."""
    if MODE.debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {printable(message)}\n")
    if hint:
        sys.stderr.write(f"  next: {printable(hint)}\n")
    sys.stderr.flush()
    if MODE.json:
        _write_json({"error": {"kind": kind, "message": message, "hint": hint, "exit_code": code}})
    return code


def fail_with(error: MettleError) -> int:
    """Report one of our own errors with its hint and exit code."""
    return fail(error.message, kind=type(error).__name__, code=error.exit_code, hint=error.hint)


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _write_json(document: Mapping[str, Any] | list[Any]) -> None:
    _write(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: object) -> object:
    """``value`` as any JSON reader takes it: no number that JSON lacks, no text that is not Unicode."""
    match value:
        case str():
            return encodable(value)
        case Path():
            return encodable(str(value))
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {encodable(str(key)): _plain(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(inner) for inner in value]
        case None | bool() | int():
            return value
    raise TypeError(f"{type(value).__name__} has no place in a JSON document")
