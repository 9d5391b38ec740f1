"""The GPU kernels, run by Triton's interpreter, against plain attention on decoded tokens in float64."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mettle_cache.methods.kernels import reference
from tests.methods.kernels.cuda.cases import CASES, MORE_CASES
from tests.methods.kernels.test_ops import pool_plainly

ROOT = Path(__file__).parents[4]
# of the largest number of a result
LIMIT = 2e-6

pytest.importorskip("triton")


def interpret(file, *arguments):
    """What a process of its own computes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.methods.kernels.cuda.interpreted", str(file), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return interpret(tmp_path_factory.mktemp("interpreted") / "results.pt")


@pytest.fixture(scope="module")
def more_results(tmp_path_factory):
    return interpret(tmp_path_factory.mktemp("interpreted") / "results.pt", "more")


def distance(ours, exact):
    """The largest difference, of the largest number; of nothing but zeros, as it is."""
    assert ours.shape == exact.shape
    difference, largest = (
        ((ours.double() - exact).abs().max(), exact.abs().max()) if exact.numel() else (ours.sum(),) * 2
    )
    return (difference / largest if largest else difference).item()


def assert_exact(case, ours):
    """Compare with attention in float64 on decoded tokens.

    The limit is larger only where float32 itself is not so exact in PyTorch.
    """
    tokens, queries, mixing, d_context, d_mixed = case.inputs()
    leaves = [queries.double().requires_grad_()]
    leaves += [] if mixing is None else [mixing.double().requires_grad_()]
    plain = pool_plainly(tokens, leaves[0], leaves[1] if mixing is not None else None, case.eps, case.contexts)
    total = (plain[0].transpose(0, 1) * d_context).sum() + (plain[1] * d_mixed).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    exact = {"context": plain[0].detach().transpose(0, 1), "mixed": plain[1].detach(), "queries": gradients[0]}
    exact |= {} if mixing is None else {"mixing": gradients[1]}
    single = reference.pool_backward(tokens, queries, mixing, case.eps, d_context, d_mixed)
    assert ours["back"].keys() == exact.keys()
    for name, pooled in zip(("context", "mixed"), ours["pooled"], strict=True):
        assert distance(pooled, exact[name]) <= max(LIMIT, 2 * distance(getattr(single, name), exact[name])), name
    for name, found in ours["back"].items():
        assert distance(found, exact[name]) <= max(LIMIT, 2 * distance(getattr(single, name), exact[name])), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_exact_to_the_rounding_of_float32(case, results):
    assert_exact(case, results[str(case)])


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_CASES, ids=str)
def test_so_are_those_of_the_other_kinds(case, more_results):
    assert_exact(case, more_results[str(case)])


def test_layers_of_a_stage_in_one_launch_get_the_numbers_that_each_gets_alone(results):
    together, alone = results["stage"]["stage"], results["stage"]["alone"]
    assert len(together) == len(alone) == 6
    for ours, single in zip(together, alone, strict=True):
        for found, expected in zip(ours, single, strict=True):
            assert found.abs().max() > 0
            # programs take other frames together, whose gradients are added in another order
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
