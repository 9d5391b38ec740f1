"""Which machines the GPU kernels run on; the others are told why once, and pool by PyTorch's operations."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from mettle_cache.methods.kernels import klt, ops, reference
from mettle_cache.methods.kernels.cuda import machine, pooling
from tests.methods.conftest import make_tokens

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    machine.missing.cache_clear()
    monkeypatch.setattr(machine, "_told", set())
    yield
    machine.missing.cache_clear()


@pytest.fixture
def ampere(monkeypatch):
    """A machine with an NVIDIA GPU, as far as one asks."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(machine, "find_spec", lambda name: find_spec("torch"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce RTX 3060")


def test_an_nvidia_gpu_with_triton_runs_them(ampere):
    assert machine.missing(CUDA) is None
    assert machine.can_run(CUDA)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_another_accelerator_does_not(kind):
    assert machine.missing(torch.device(kind)) == f"they are for NVIDIA GPUs, and this device is '{kind}'"
    assert not machine.can_run(torch.device(kind))


def test_neither_does_one_of_amd(ampere, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert machine.missing(CUDA) == "they are for NVIDIA GPUs, and this is one of AMD (ROCm)"


def test_nor_one_without_triton(ampere, monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert machine.missing(CUDA) == "Triton is not installed"


def test_nor_an_old_one(ampere, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert machine.missing(CUDA) == "GeForce RTX 3060 is older than NVIDIA's Ampere"


def test_what_is_missing_is_told_once_a_process_and_never_of_a_cpu():
    notes = []
    for _ in range(2):
        machine.tell_what_is_missing([torch.device("cpu"), torch.device("meta"), torch.device("mps")], notes.append)
    assert notes == [
        "tokens are pooled by PyTorch's operations, several times slower than the GPU kernels: "
        "they are for NVIDIA GPUs, and this device is 'mps'"
    ]


def test_tokens_of_a_cpu_never_come_to_them():
    tokens, queries = make_tokens("int8", 1, 4, 16), torch.zeros(1, 16)
    assert pooling.is_kernel_for(tokens, queries)
    assert not pooling.fits(tokens, queries)
    assert ops.choose_implementation(tokens, queries) is not pooling


def test_of_a_gpu_every_codec_comes_to_them(ampere, monkeypatch):
    monkeypatch.setattr(pooling, "can_run", lambda device: True)
    monkeypatch.setattr(ops, "IMPLEMENTATIONS", (pooling, klt, reference))
    for form, way in {"int8": pooling, "int4": pooling, "float16": pooling, "klt": klt, "float64": reference}.items():
        tokens = make_tokens(form, 1, 8, 16)
        assert ops.choose_implementation(tokens, torch.zeros(1, 16)) is way
    assert ops.choose_implementation(make_tokens("int8", 1, 4, 16), torch.zeros(1, 16).double()) is reference


def test_without_a_gpu_triton_is_not_even_imported():
    code = """
import sys, torch, mettle_cache
from mettle_cache.methods.kernels import ops
from tests.methods.conftest import make_tokens
for form in ("int8", "klt", "float16"):
    ops.choose_implementation(make_tokens(form, 1, 4, 16), torch.zeros(1, 16))
assert "triton" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
