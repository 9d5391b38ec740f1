"""stdout and stderr that are closed, full, read by nobody, or of another encoding."""

import json
import os
import subprocess
import sys

import pytest

METTLE = f"{sys.executable} -m mettle_cache.cli.main"


def shell(command):
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("datasets >&-", 0),
        ("datasets <&- >&- 2>&-", 0),
        ("info NOSUCH --json >&- 2>&-", 2),
        ("info NOSUCH 2>/dev/full", 2),
        ("info NOSUCH 2>&1 | head -c 3", 2),
    ],
)
def test_a_stream_that_takes_nothing_changes_no_exit_code(command, code):
    result = shell(f"{METTLE} {command}")
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.parametrize("command", ["datasets", "--help"])
def test_a_result_that_a_full_disk_does_not_take_is_an_error(command):
    result = shell(f"{METTLE} {command} >/dev/full")
    assert result.returncode == 1
    assert "could not be written to stdout: No space left on device" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_a_closed_stream_s_number_goes_to_no_file_of_ours():
    """What libraries in C write to stderr must not land in a file that was opened meanwhile."""
    code = (
        "import os, sys\n"
        "from mettle_cache.cli.streams import guard_streams\n"
        "guard_streams()\n"
        "print(open('/dev/zero').fileno() > 2, os.readlink('/proc/self/fd/1') == os.devnull, file=sys.stderr)"
    )
    assert shell(f'{sys.executable} -c "{code}" >&-').stderr == "True True\n"


def test_work_goes_on_when_nobody_reads_its_progress(tmp_path):
    code = (
        "import time\n"
        "from mettle_cache.cli.streams import guard_streams\n"
        "guard_streams()\n"
        "from mettle_cache.pipelines.progress import terminal_progress\n"
        "progress = terminal_progress()\n"
        "for number in range(1000): progress.note('x' * 1000)\n"
        f"open('{tmp_path}/done', 'w')\n"
    )
    assert shell(f'{sys.executable} -c "{code}" 2>&1 | head -1').returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_stdout_will_do(encoding):
    name = "音\udce9-é"
    result = subprocess.run(
        [*METTLE.split(), "info", name, "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert result.returncode == 2
    assert "not UTF-8" in json.loads(result.stdout)["error"]["message"]
    assert b"Traceback" not in result.stderr
