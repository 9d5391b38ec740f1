"""What a part of the check found: lines with a figure each, beside the limit of the machine and the goal.

Plain, so that they can be told on a machine that has PyTorch and little else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a part.

    Attributes
    ----------
    value
        In ``unit``; None where nothing was measured, and ``note`` says why.
    limit, limit_is
        What the machine could do at best, in the same unit and measured in the same run, and what that is.
    share
        How near ``value`` comes to the limit, 1 for reaching it.
    least
        The goal for ``share``, if there is one.
    passed
        False where what was computed is wrong; a goal that is missed is no error.
    """

    what: str
    value: float | None
    unit: str
    limit: float | None = None
    limit_is: str = ""
    share: float | None = None
    least: float | None = None
    passed: bool = True
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether there is a goal, and it is not reached."""
        return self.least is not None and self.share is not None and self.share < self.least


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """``state``: ``done``, ``failed`` (an error, or something computed wrongly) or ``skipped``; ``reason`` says why."""

    part: str
    state: str
    seconds: float = 0.0
    reason: str = ""
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def describe_result(result: PartResult) -> str:
    """A part as a Markdown table, for a terminal and for BENCHMARKS.md."""
    said = f": {result.reason}" if result.reason else ""
    head = f"## {result.part} ({result.state} in {result.seconds:.0f} s){said}"
    if not result.findings:
        return head
    return "\n".join([head, "", *_table(result.findings)])


def _table(findings: Iterable[Finding]) -> Iterable[str]:
    yield "| what | value | limit | share | goal | note |"
    yield "|---|---|---|---|---|---|"
    for one in findings:
        value = "-" if one.value is None else f"{one.value:.4g} {one.unit}".rstrip()
        limit = "" if one.limit is None else f"{one.limit:.4g} {one.unit} ({one.limit_is})"
        share = "" if one.share is None else f"{one.share:.2f}"
        goal = "" if one.least is None else f"{one.least:.2f}{', missed' if one.missed else ''}"
        note = one.note if one.passed else f"WRONG. {one.note}"
        yield f"| {one.what} | {value} | {limit} | {share} | {goal} | {note} |"
