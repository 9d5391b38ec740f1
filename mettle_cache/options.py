"""Options: frozen keyword-only dataclasses that stand beside what they configure, and check themselves.

Legal values are declared by the fields' types, rules between fields by :meth:`Options.problems`. A table of a recipe
becomes options by :func:`read_options`, which finds everything that is wrong with it; in Python the constructor raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mettle_cache.errors import OptionsError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Count = Annotated[int, Field(ge=1)]
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
        options = adapter.validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        return None, [*wrong, *_describe(error, kind, prefix)]
    return (None, wrong) if wrong else (options, [])


def _drop_settled(kind: type, table: object, prefix: str) -> tuple[object, list[str]]:
    settled: Mapping[str, object] = getattr(kind, "settled", {})
    if not isinstance(table, Mapping):
        return table, []
    wrong = [
        f"{prefix}{key}: is always {json.dumps(value)} now, not {json.dumps(table[key], default=str)}"
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
        reasons.setdefault(f"{prefix}{key}".rstrip("."), []).append(message)
    return [f"{key or 'recipe'}: {', or '.join(dict.fromkeys(messages))}" for key, messages in reasons.items()]


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
    return f"{message}, not {json.dumps(detail['input'], default=str)}"


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
