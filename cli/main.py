"""The ``mettle`` command: one small file a subcommand, no logic here but the mapping of errors to exit codes.

Exit codes: 0; 1 the work found a problem; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import typer
from typer.exceptions import TyperException

from mettle_cache.cli.help_page import MAX_WIDTH, App, Group
from mettle_cache.cli.output import MODE, fail, fail_with
from mettle_cache.cli.streams import guard_streams, lost_result
from mettle_cache.cli.verbosity import add_verbosity
from mettle_cache.errors import MettleError
from mettle_cache.pipelines.progress import VERBOSITY, stop_bars
from mettle_cache.pipelines.signals import INTERRUPTED, Command, command_signals, end_process

# in the order of a user's work; each module registers itself on import through `register(app)`
SECTIONS = {
    "Start": ("demo", "doctor", "datasets", "backbones", "methods", "recipes", "plan"),
    "Stage one: media to tokens": ("extract", "recode", "verify", "info"),
    "Stage two: tokens to trained heads": ("train", "sweep", "evaluate", "predict", "export", "pretrain-grounding"),
    "Look at results": ("report", "compare-codecs", "analyse", "params", "bench"),
    "Share": ("push", "pull"),
    "Keep order": ("ls", "clean"),
}
COMMANDS = tuple(name for names in SECTIONS.values() for name in names)

HELP = """Run frozen audio-visual backbones once, store every layer's tokens, train Mettle heads from the store.

Start with: mettle demo (everything, small, on a CPU), then mettle doctor.
"""


class Mettle(Group):
    """The command of all commands."""

    sections = SECTIONS


def build_app() -> typer.Typer:
    app = App(
        name="mettle",
        cls=Mettle,
        help=HELP,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
    )
    app.callback(invoke_without_command=True)(_root)
    for name in COMMANDS:
        import_module(f"mettle_cache.cli.{name.replace('-', '_')}").register(app)
    add_verbosity(app)
    return app


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"mettle-cache {version('mettle-cache')}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "-V", "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Global options; see HELP."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # OpenMP's threads spin while they wait; beside any other busy process that makes small products 5 times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # a usage error can come before the options are parsed, and must be JSON all the same
    MODE.json, MODE.debug = "--json" in arguments, "--debug" in arguments
    Command.words = tuple(arguments)
    VERBOSITY.quiet = VERBOSITY.verbose = False
    with command_signals():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        code = _call(arguments)
        # typer swallows a KeyboardInterrupt and gives its code
        return _fail_interrupted() if code == INTERRUPTED else code
    except SystemExit as error:  # how typer ends after it has told a shell what it can offer
        return int(error.code or 0)
    except MettleError as error:
        return fail_with(error)
    except TyperException as error:
        return _fail_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail_interrupted()
    except Exception as error:  # noqa: BLE001 - the last resort: one line instead of a traceback, exit code 1
        if Command.interrupted:
            return _fail_interrupted()
        return fail(
            f"unexpected {type(error).__name__}: {error}",
            kind=type(error).__name__,
            code=1,
            hint="this is a defect of mettle: run again with --debug and report what it prints",
        )


def _call(arguments: list[str]) -> int:
    try:
        return int(build_app()(arguments or ["--help"], prog_name="mettle", standalone_mode=False) or 0)
    finally:
        stop_bars()  # before anything else is said, and before the process ends


def _fail_interrupted() -> int:
    return fail("interrupted", kind="Interrupted", code=INTERRUPTED)


def _fail_usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path} --help" if context else None
    return fail(error.format_message(), kind="UsageError", code=error.exit_code, hint=hint)


def main() -> None:
    """Entry point of the ``mettle`` script."""
    guard_streams()
    code = run()
    if lost := lost_result():
        code = code or fail(
            f"the result could not be written to stdout: {lost.strerror}",
            kind="OutputError",
            code=1,
            hint="what the command did is done; send its output elsewhere and run it again to read the result",
        )
    # threads whose work nobody waits for any more would keep Python from leaving, and a signal would find it halfway
    end_process(code)


if __name__ == "__main__":
    main()
