"""The result of a bench: rows beside their denominators, the machine and the command that made them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.timing import Repeats

# results are read back from files that anybody may have written
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Text = Annotated[str, Field(max_length=2000)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BenchRow:
    """One line of a table.

    Attributes
    ----------
    value
        The median, in ``unit``; None where nothing could be measured, and ``note`` says why.
    low, high
        The least and the most of the repeats.
    ratio
        ``value`` over the value of the denominator row called ``denominator``.
    """

    variant: Text
    value: float | None
    unit: Text
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    denominator: Text | None = None
    note: Text = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Goal:
    """A goal of a bench: ``found`` must be at least (``least``) or at most ``wanted``, in ``unit``."""

    what: Text
    wanted: float
    found: float
    unit: Text = ""
    least: bool = True

    @property
    def met(self) -> bool:
        return self.found >= self.wanted if self.least else self.found <= self.wanted


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BenchTable:
    """The result of one bench.

    Attributes
    ----------
    denominators
        The physical limits or baselines, measured in the same run; rows name them.
    tiny
        Toy shapes: the numbers mean what they say, but not for the sizes that matter.
    machine
        What it ran on, by topic.
    """

    bench: Text
    title: Text
    rows: tuple[BenchRow, ...]
    denominators: tuple[BenchRow, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[Text, ...] = ()
    repeats: Annotated[int, Field(ge=1)]
    tiny: bool = False
    machine: dict[Text, Text] = Field(default_factory=dict)
    command: Text = ""

    def row(self, variant: str) -> BenchRow:
        """The row, or denominator, of that name. Raises KeyError."""
        return {row.variant: row for row in (*self.denominators, *self.rows)}[variant]

    def to_json(self) -> dict[str, object]:
        document = asdict(self)
        document["goals"] = [{**asdict(goal), "met": goal.met} for goal in self.goals]
        return document


def measured(variant: str, repeats: Repeats, unit: str, *, of: BenchRow | None = None, note: str = "") -> BenchRow:
    """The row of a quantity that was measured several times; ``of`` is its denominator."""
    return BenchRow(
        variant=variant,
        value=repeats.median,
        unit=unit,
        low=repeats.low,
        high=repeats.high,
        ratio=repeats.median / of.value if of is not None and of.value else None,
        denominator=None if of is None else of.variant,
        note=note,
    )


def unmeasured(variant: str, unit: str, note: str) -> BenchRow:
    """The row of what could not be measured, and why."""
    return BenchRow(variant=variant, value=None, unit=unit, note=note)


_TABLE: TypeAdapter[BenchTable] = TypeAdapter(BenchTable)


def parse_table(data: bytes, where: str) -> BenchTable:
    """A table from what ``mettle bench NAME --json`` printed.

    Raises
    ------
    UsageError
        It is something else; names ``where``.
    """
    try:
        document = TypeAdapter(dict[str, object]).validate_json(data)
        goals = document.get("goals")
        if isinstance(goals, list):
            # `met` follows from the rest
            document["goals"] = [{k: v for k, v in goal.items() if k != "met"} for goal in goals]
        return _TABLE.validate_python(document)
    except (ValidationError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"{where} is not the result of a bench: {first}", hint="write it with: mettle bench NAME --json > FILE"
        ) from error
