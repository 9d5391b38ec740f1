"""Plain tables into frozen dataclasses: all problems at once, each with its key."""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError


def convert(kind: type, table: object, prefix: str) -> tuple[Any, list[str]]:
    """An instance of the dataclass ``kind`` and no problems, or None and every problem of the table.

    ``prefix`` stands before the keys in the problems.
    """
    try:
        # JSON mode, because its strictness lets a list be a tuple; dates, which TOML has, become strings and fail
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str)), []
    except ValidationError as error:
        return None, _describe(error, kind, prefix)


def _describe(error: ValidationError, kind: type, prefix: str) -> list[str]:
    """One line for each key that is wrong; alternatives of a type are joined."""
    reasons: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        key, owner = _locate(detail["loc"], kind)
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = [item.name for item in dataclasses.fields(owner)]
            near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
            message = f"no such key; did you mean {near[0]}?" if near else f"no such key (known: {', '.join(known)})"
        elif detail["type"] not in ("missing", "value_error"):
            message = f"{message}, not {json.dumps(detail['input'], default=str)}"
        reasons.setdefault(f"{prefix}{key}".rstrip("."), []).append(message)
    return [f"{key or 'recipe'}: {', or '.join(dict.fromkeys(messages))}" for key, messages in reasons.items()]


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
