"""``--quiet`` and ``--verbose``, which every command takes."""

from __future__ import annotations

import inspect
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any

import typer

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.progress import VERBOSITY
from mettle_cache.pipelines.report.units import format_bytes, format_seconds

QUIET = typer.Option("--quiet", "-q", help="Print errors and the result only; no notes and no progress.")
VERBOSE = typer.Option("--verbose", "-v", help="Print more on stderr: every step or clip, and where time goes.")


def add_verbosity(app: typer.Typer) -> None:
    """Give the two options to every command of ``app``, those of its groups included."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.callback = _with_verbosity(command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add_verbosity(group.typer_instance)
        # what a group does without a command
        callback = group.typer_instance.registered_callback
        if callback is not None and callback.callback is not None:
            callback.callback = _with_verbosity(callback.callback)


def _with_verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def call(*, quiet: bool, verbose: bool, **values: Any) -> Any:
        # said to a group, they hold for its commands
        VERBOSITY.quiet, VERBOSITY.verbose = quiet or VERBOSITY.quiet, verbose or VERBOSITY.verbose
        if VERBOSITY.quiet and VERBOSITY.verbose:
            raise UsageError("--quiet and --verbose exclude each other", hint="give one of them")
        with _told_costs():
            return command(**values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[bool, option], default=False)
        for name, option in (("quiet", QUIET), ("verbose", VERBOSE))
    ]
    parameters = [*(one.replace(kind=one.KEYWORD_ONLY) for one in own), *further]
    # what typer reads
    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


@contextmanager
def _told_costs() -> Iterator[None]:
    """With ``--verbose``: what the command took, however it ends."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if VERBOSITY.verbose:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            took = format_seconds(time.perf_counter() - began)
            sys.stderr.write(f"took {took} and at most {format_bytes(memory)} of memory\n")
            sys.stderr.flush()
