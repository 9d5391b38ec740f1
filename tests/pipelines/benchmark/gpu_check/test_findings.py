"""How a part's figures are told."""

from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding, PartResult, describe_result

REACHED = Finding(what="a", value=95.0, unit="GB/s", limit=100.0, limit_is="copy", share=0.95, least=0.85)
MISSED = Finding(what="b", value=50.0, unit="GB/s", limit=100.0, limit_is="copy", share=0.5, least=0.85)
WRONG = Finding(what="c", value=0.1, unit="of the peak", passed=False, note="cuda.pooling")


def test_a_missed_goal_and_a_wrong_result_are_told_apart():
    result = PartResult(
        part="kernels", state="failed", seconds=3.2, reason="wrong: c", findings=(REACHED, MISSED, WRONG)
    )
    head, _, _, _, *lines = describe_result(result).splitlines()
    assert head == "## kernels (failed in 3 s): wrong: c"
    assert lines == [
        "| a | 95 GB/s | 100 GB/s (copy) | 0.95 | 0.85 |  |",
        "| b | 50 GB/s | 100 GB/s (copy) | 0.50 | 0.85, missed |  |",
        "| c | 0.1 of the peak |  |  |  | WRONG. cuda.pooling |",
    ]
    assert [one.missed for one in (REACHED, MISSED, WRONG)] == [False, True, False]


def test_a_part_without_figures_is_a_line():
    skipped = PartResult(part="step", state="skipped", reason="it lacks the packages pydantic, fastcrc")
    assert describe_result(skipped) == "## step (skipped in 0 s): it lacks the packages pydantic, fastcrc"
