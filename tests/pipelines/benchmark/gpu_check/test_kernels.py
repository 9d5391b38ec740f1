"""The comparison with plain attention can fail."""

import pytest
import torch

from mettle_cache.methods.kernels import reference
from mettle_cache.pipelines.benchmark.gpu_check import kernels
from mettle_cache.pipelines.benchmark.gpu_check.kernels import (
    attended,
    compare,
    error_of,
    make_problem,
    measure,
    pooled,
)
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers

ON_CPU = Setting(device=torch.device("cpu"), tiny=True, repeats=1)


@pytest.fixture(scope="module", params=kernels.CODECS)
def problem(request):
    return make_problem(bench_layers(tiny=True)[0], request.param, ON_CPU)


def test_pooling_is_plain_attention(problem):
    exact = problem.first(kernels.COMPARED, torch.float64)
    way = kernels.choose_implementation(exact.tokens, exact.queries)
    assert error_of(pooled(way, exact), attended(exact)) < 1e-12
    finding = compare("here", problem)
    assert finding.passed
    assert 0 < finding.value < 1e-5


@pytest.mark.parametrize("factor", [1 + 1e-3, float("nan")])
def test_a_wrong_pooling_is_found(problem, monkeypatch, factor):
    class Wrong:
        @staticmethod
        def pool(*arguments):
            context, mixed = right.pool(*arguments)
            return context * factor, mixed

        @staticmethod
        def pool_backward(*arguments):
            return right.pool_backward(*arguments)

    right = kernels.choose_implementation(problem.tokens, problem.queries)
    monkeypatch.setattr(kernels, "choose_implementation", lambda *_: Wrong)
    assert not compare("here", problem).passed


def test_rates_stand_beside_the_copy(problem):
    forward, backward = measure("here", "int8", problem, ON_CPU)
    assert (forward.what, backward.what) == ("here forward", "here backward")
    assert forward.value > 0
    assert forward.share == pytest.approx(forward.value / forward.limit)


def test_the_reference_names_itself(problem):
    assert kernels._name_of(reference, problem.tokens) in ("reference", "cpu.klt_pooling", "klt_rows")
