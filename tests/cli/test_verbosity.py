"""--quiet and --verbose, the same for every command; the result on stdout is the same with either."""

import json

import pytest

from mettle_cache.cli.main import COMMANDS, run
from mettle_cache.pipelines import progress
from mettle_cache.pipelines.progress import PlainProgress, Silent, detail, terminal_progress


@pytest.fixture(autouse=True)
def _as_before():
    yield
    progress.VERBOSITY.quiet = progress.VERBOSITY.verbose = False


@pytest.mark.parametrize("command", [*COMMANDS, "bench read", "analyse fusion"])
def test_every_command_has_both(capsys, command):
    assert run([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "-q, --quiet" in out
    assert "-v, --verbose" in out


def test_both_together_are_refused(capsys):
    assert run(["datasets", "-q", "-v"]) == 2
    assert "--quiet and --verbose exclude each other" in capsys.readouterr().err


def test_a_result_is_the_same_and_verbose_says_what_it_took(capsys):
    outs = []
    for options in ([], ["--quiet"], ["--verbose"]):
        assert run(["datasets", "--json", *options]) == 0
        streams = capsys.readouterr()
        outs.append(json.loads(streams.out))
        took = streams.err.startswith("took 0.") and " of memory\n" in streams.err
        assert took if options == ["--verbose"] else streams.err == ""
    assert outs[0] == outs[1] == outs[2]


def test_an_error_is_told_to_the_quiet_too_and_is_json(capsys):
    assert run(["info", "NOSUCH", "--quiet", "--json"]) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith("error: there is no token store at NOSUCH")
    assert json.loads(streams.out)["error"]["kind"] == "StoreMissingError"


def test_what_long_work_shows(capsys):
    shows = {(True, False): (Silent, 0), (False, False): (PlainProgress, 1), (False, True): (PlainProgress, 2)}
    for (quiet, verbose), (kind, lines) in shows.items():
        progress.VERBOSITY.quiet, progress.VERBOSITY.verbose = quiet, verbose
        shown = terminal_progress()
        assert isinstance(shown, kind)
        shown.note("a note")
        detail(shown, "a detail")
        assert len(capsys.readouterr().err.splitlines()) == lines
