"""What every command promises: help with examples, exit codes, one JSON document, no traceback."""

import json
import subprocess
import sys

import pytest

from mettle_cache.cli import main
from mettle_cache.cli.main import COMMANDS, run
from mettle_cache.errors import ConfigError, StoreCorruptError, UsageError


def mettle(capsys, *arguments):
    code = run(list(arguments))
    streams = capsys.readouterr()
    return code, streams.out, streams.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capsys, command):
    code, out, _ = mettle(capsys, command, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"mettle {command}" in out.split("Examples:")[1]
    assert "--json" in out
    assert "--debug" in out


def test_no_arguments_show_the_help(capsys):
    code, out, _ = mettle(capsys)
    assert code == 0
    for command in COMMANDS:
        assert f"  {command} " in out


def test_the_version_is_the_packages(capsys):
    code, out, _ = mettle(capsys, "--version")
    assert code == 0
    assert out.startswith("mettle-cache 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--resum"], "--resume"),
        (["evaluate"], "Missing argument"),
        (["params", "extra"], "unexpected extra argument"),
        (["train", "--from-cache", "--seed", "x"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_meant(capsys, arguments, message):
    code, out, err = mettle(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_wrong_usage_is_json_too(capsys):
    code, out, err = mettle(capsys, "trian", "--json")
    document = json.loads(out)
    assert code == document["error"]["exit_code"] == 2
    assert "trian" in document["error"]["message"]
    assert "trian" in err


@pytest.fixture
def failing_params(monkeypatch):
    """A command that runs into trouble: the real ``params`` over a table that raises."""

    def fail_with(error):
        def params_table():
            raise error

        monkeypatch.setattr("mettle_cache.pipelines.report.params.params_table", params_table)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreCorruptError("clip a: bad bytes in file x", hint="mettle verify STORE"), 1),
        (UsageError("no such thing", hint="another"), 2),
        (ConfigError(["k must be positive", "no such key"], where="recipe.toml", hint="fix it"), 2),
    ],
)
def test_our_errors_end_as_message_hint_and_code(capsys, failing_params, error, code):
    failing_params(error)
    got, out, err = mettle(capsys, "params", "--json")
    document = json.loads(out)["error"]
    assert got == code == document["exit_code"]
    assert document["kind"] == type(error).__name__
    assert document["message"] == error.message
    assert document["hint"] == error.hint
    assert error.message in err
    assert error.hint in err
    assert "Traceback" not in err


def test_a_defect_is_one_line_unless_debug_asks_for_more(capsys, failing_params):
    failing_params(ZeroDivisionError("division by zero"))
    code, _, err = mettle(capsys, "params")
    assert code == 1
    assert "unexpected ZeroDivisionError" in err
    assert "--debug" in err
    assert "Traceback" not in err
    code, _, err = mettle(capsys, "params", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_ctrl_c_is_130(capsys, failing_params):
    failing_params(KeyboardInterrupt())
    code, _, err = mettle(capsys, "params")
    assert code == 130
    assert "interrupted" in err


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m mettle_cache.cli.main backbones --json | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert result.stdout == '{\n  "backb'
    assert result.stderr == ""


def test_commands_are_listed_once():
    assert len(set(main.COMMANDS)) == len(main.COMMANDS)
