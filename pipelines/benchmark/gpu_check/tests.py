"""The tests that need a GPU, a file at a time: a file whose packages are not here is told, and the others run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting

MARK = "pytest.mark.gpu"
# of pytest: the tests passed, a file could not be imported, no test was chosen
_PASSED, _INTERRUPTED, _NONE = 0, 2, 5
_TAIL = 12


def run(setting: Setting, tests: Path = Path("tests")) -> Iterator[Finding]:
    """A line for each file with tests for a GPU.

    Raises
    ------
    UsageError
        There is no such folder: it was not started in a checkout.
    """
    if not tests.is_dir():
        raise UsageError(f"there is no folder {tests} here", hint="run it in a checkout, where the tests are")
    for path in sorted(path for path in tests.rglob("test_*.py") if MARK in path.read_text()):
        yield _run_file(path)


def _run_file(path: Path) -> Finding:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        str(path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lacking = re.findall(r"ModuleNotFoundError: No module named '([^']+)'", result.stdout)
    if result.returncode == _INTERRUPTED and lacking:
        return Finding(what=str(path), value=None, unit="", note=f"it lacks the package {lacking[0]}")
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", result.stdout)}
    passed = result.returncode in (_PASSED, _NONE)
    if not passed:
        print("\n".join(result.stdout.splitlines()[-_TAIL:]))  # noqa: T201
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    return Finding(what=str(path), value=counts.get("passed", 0), unit="passed", passed=passed, note=told)
