"""Options: frozen keyword-only dataclasses that stand beside what they configure, and check themselves.

Legal values are declared by the fields' types, rules between fields by :meth:`Options.problems`. Every number has a
least and a greatest value, every list a greatest length: a slip of the finger must not fill memory. A table of a recipe
becomes options by :func:`read_options`, which finds everything that is wrong with it; in Python the constructor raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mettle_cache.errors import OptionsError

_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_LONGEST = 100
# what Python itself refuses to write as text
TOO_MUCH = "a number of thousands of digits, or tables that are nested too deeply"
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Count = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=8192)]
Heads = Annotated[int, Field(ge=1, le=256)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Options:
    """Base of options; a subclass is a ``@dataclass(frozen=True, kw_only=True)`` with a default for every field.

    Raises
    ------
    OptionsError
        A value that its field does not allow, or values that exclude each other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    settled: ClassVar[Mapping[str, object]] = {}
    """Keys that older recipes hold and that have one value now: accepted where they say it."""

    def __post_init__(self) -> None:
        wrong: list[str] = []
        kind: Any = type(self)
        for name, adapter in _fields(kind).items():
            try:
                adapter.validate_python(getattr(self, name))
            except ValidationError as error:
                wrong += [f"{name}: {line}" for line in _messages(error)]
        wrong = wrong or list(self.problems())
        if wrong:
            raise OptionsError(wrong, where=type(self).__name__)

    def problems(self) -> Sequence[str]:
        """What is wrong with the values together, each of them being legal."""
        return ()


@functools.cache
def _fields(kind: type) -> dict[str, TypeAdapter[Any]]:
    """What checks each field's value; a field that holds options is left out, because those checked themselves."""
    hints = get_type_hints(kind, include_extras=True)
    names = [item.name for item in dataclasses.fields(kind) if not dataclasses.is_dataclass(hints[item.name])]
    return {name: TypeAdapter(hints[name], config=STRICT) for name in names}


def read_options(kind: type, table: object, prefix: str) -> tuple[Any, list[str]]:
    """An instance of the dataclass ``kind`` and no problems, or None and every problem of the table.

    ``prefix`` stands before the keys in the problems: ``lcd.`` for the table ``[lcd]``.
    """
    table, wrong = _drop_settled(kind, table, prefix)
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        # JSON mode, because its strictness lets a list be a tuple; dates, which TOML has, become strings and fail
        document = json.dumps(table, default=str)
    except (ValueError, RecursionError):
        return None, [*wrong, f"{prefix.rstrip('.') or 'recipe'}: {TOO_MUCH}"]
    try:
        options = adapter.validate_json(document)
    except ValidationError as error:
        return None, [*wrong, *_describe(error, kind, prefix)]
    return (None, wrong) if wrong else (options, [])


def _drop_settled(kind: type, table: object, prefix: str) -> tuple[object, list[str]]:
    settled: Mapping[str, object] = getattr(kind, "settled", {})
    if not isinstance(table, Mapping):
        return table, []
    wrong = [
        f"{prefix}{key}: is always {json.dumps(value)} now, not {_shorten(table[key])}"
        for key, value in settled.items()
        if key in table and table[key] != value
    ]
    return {key: value for key, value in table.items() if key not in settled}, wrong


def _describe(error: ValidationError, kind: type, prefix: str) -> list[str]:
    """One line for each key that is wrong; alternatives of a type are joined."""
    reasons: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        key, owner = _locate(detail["loc"], kind)
        message = _message(detail)
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = [item.name for item in dataclasses.fields(owner)]
            near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
            message = f"no such key; did you mean {near[0]}?" if near else f"no such key (known: {', '.join(known)})"
        elif detail["type"] in _BOUNDS:
            hint = get_type_hints(owner, include_extras=True)[key.rpartition(".")[2]]
            message += f" (from {' or '.join(dict.fromkeys(map(str, numeric_ranges(hint))))})"
        reasons.setdefault(f"{prefix}{key}".rstrip("."), []).append(message)
    return [
        f"{key[:_LONGEST] or 'recipe'}: {', or '.join(dict.fromkeys(messages))}" for key, messages in reasons.items()
    ]


def _messages(error: ValidationError) -> list[str]:
    """The alternatives of one value's type, joined."""
    return [", or ".join(dict.fromkeys(_message(detail) for detail in error.errors(include_url=False)))]


def _message(detail: Any) -> str:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, OptionsError):
        return "; ".join(cause.problems)
    message: str = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("missing", "value_error"):
        return message
    return f"{message}, not {_shorten(detail['input'])}"


def _shorten(value: object) -> str:
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        return TOO_MUCH
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a number may have; None where nothing bounds them."""

    least: float | None
    greatest: float | None

    def __str__(self) -> str:
        return f"{self.least} to {self.greatest}"


def numeric_ranges(hint: Any) -> Iterator[Range]:
    """The range of every number that a field's annotation allows, in alternatives and in lists too."""
    if hint in (int, float):
        yield Range(None, None)
    elif get_origin(hint) is Annotated and get_args(hint)[0] in (int, float):
        limits = [limit for item in hint.__metadata__ for limit in getattr(item, "metadata", [item])]
        least = [getattr(limit, name) for limit in limits for name in ("ge", "gt") if hasattr(limit, name)]
        greatest = [getattr(limit, name) for limit in limits for name in ("le", "lt") if hasattr(limit, name)]
        yield Range(least[0] if least else None, greatest[0] if greatest else None)
    else:
        for inner in get_args(hint):
            yield from numeric_ranges(inner)


def _locate(location: tuple[int | str, ...], kind: type) -> tuple[str, type]:
    """The dotted key of a pydantic location, without the names of type alternatives, and the dataclass it is in."""
    parts: list[str] = []
    owner = kind
    for part in location:
        inner = {item.name: item for item in dataclasses.fields(owner)}.get(str(part))
        parts.append(str(part))
        default = inner.default_factory if inner else dataclasses.MISSING
        if not isinstance(default, type) or not dataclasses.is_dataclass(default):
            break
        owner = default
    return ".".join(parts), owner
