"""Options check themselves in Python, and from a table with all that is wrong at once."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from mettle_cache.errors import ConfigError, OptionsError, UsageError
from mettle_cache.options import Count, Options, Share, read_options


@dataclass(frozen=True, kw_only=True)
class Inner(Options):
    rate: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer(Options):
    settled: ClassVar[Mapping[str, object]] = {"path": "absorbed"}

    dim: Count | Literal["none"] = 256
    counts: tuple[Count, ...] = (1,)
    inner: Inner = field(default_factory=Inner)

    def problems(self):
        return ("dim = 7 is unlucky",) if self.dim == 7 else ()


@dataclass(frozen=True, kw_only=True)
class Wider(Outer):
    flag: bool = True

    def problems(self):
        return [*super().problems(), *(() if self.flag else ("flag must stand",))]


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"dim": 0}, ("dim: Input should be greater than or equal to 1, not 0, or Input should be 'none', not 0",)),
        ({"dim": True}, ("dim: Input should be a valid integer, not true, or Input should be 'none', not true",)),
        ({"counts": [1]}, ("counts: Input should be a valid tuple, not [1]",)),
        (
            {"counts": (0,), "flag": 1},
            (
                "counts: Input should be greater than or equal to 1, not 0",
                "flag: Input should be a valid boolean, not 1",
            ),
        ),
        ({"dim": 7, "flag": False}, ("dim = 7 is unlucky", "flag must stand")),
    ],
)
def test_the_constructor_refuses_with_every_problem(values, problems):
    with pytest.raises(OptionsError) as caught:
        Wider(**values)
    assert caught.value.problems == problems
    assert str(caught.value).startswith("Wider:\n")


def test_the_error_is_a_usage_error_and_survives_another_process():
    with pytest.raises(UsageError) as caught:
        Inner(rate=1.0)
    assert isinstance(caught.value, ConfigError | ValueError)
    assert caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_table_becomes_options_and_lists_become_tuples():
    options, problems = read_options(Wider, {"dim": 3, "counts": [2, 1], "inner": {"rate": 0}}, "head.")
    assert problems == []
    assert options == Wider(dim=3, counts=(2, 1), inner=Inner(rate=0.0))


@pytest.mark.parametrize(
    ("table", "problems"),
    [
        ({"inner": {"rat": 0.1}, "dim": 2.5}, ["head.dim: ", "head.inner.rat: no such key; did you mean rate?"]),
        ({"inner": {"rate": 1.5}}, ["head.inner.rate: Input should be less than 1, not 1.5"]),
        ({"dim": 7}, ["head: dim = 7 is unlucky"]),
        ({"zzz": 1}, ["head.zzz: no such key (known: dim, counts, inner, flag)"]),
        (3, ["head: Input should be an object, not 3"]),
    ],
)
def test_a_wrong_table_gives_every_key_that_is_wrong(table, problems):
    options, found = read_options(Wider, table, "head.")
    assert options is None
    assert len(found) == len(problems)
    assert all(line.startswith(problem) for line, problem in zip(found, problems, strict=True))


def test_keys_that_went_are_accepted_where_they_say_what_is_fixed_now():
    assert read_options(Outer, {"path": "absorbed", "dim": 2}, "lcd.") == (Outer(dim=2), [])
    assert read_options(Outer, {"path": "stock"}, "lcd.") == (
        None,
        ['lcd.path: is always "absorbed" now, not "stock"'],
    )
