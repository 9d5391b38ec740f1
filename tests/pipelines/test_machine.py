"""Enough to judge figures by, and nothing that names the machine."""

import platform
import socket
from importlib.metadata import version

import pytest

from mettle_cache.pipelines.machine import cpu_model, describe_machine, disk_kind, version_of

CPUINFO = """processor	: 0
model name	: A Processor
flags		: fpu avx2 avx512_bf16 amx_int8 other

processor	: 1
model name	: Another
"""


def test_the_machine_is_described_without_its_name(tmp_path):
    facts = describe_machine(tmp_path, "cpu")
    assert {"processor", "memory", "disk", "system", "libraries"} <= set(facts)
    assert f"torch {version('torch')}" in facts["libraries"]
    assert platform.python_version() in facts["system"]
    text = " ".join(facts.values())
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text
    assert "GPU" not in facts


def test_the_processor_is_named_with_the_instructions_that_matter(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    assert cpu_model(file) == "A Processor (avx2, avx512_bf16, amx_int8)"
    assert cpu_model(tmp_path / "missing")


def test_a_disk_has_a_file_system(tmp_path):
    assert " on " in disk_kind(tmp_path)


@pytest.mark.parametrize(("package", "found"), [("torch", version("torch")), ("no-such-package", "not installed")])
def test_versions(package, found):
    assert version_of(package) == found
