"""What the keys of an options dataclass are, from its fields and its docstring, for people who set them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mettle_cache.options import numeric_ranges

_SECTION = re.compile(r"^Attributes\n-+\n", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_NEXT_SECTION = re.compile(r"\n\n\w+\n-+\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionDoc:
    """One key: ``values`` says in words what it may be, ``doc`` is empty where the docstring does not list it."""

    key: str
    default: object
    values: str
    doc: str


def option_docs(kind: type) -> list[OptionDoc]:
    """The keys of ``kind``, in the order of its fields. Docstrings list them under "Attributes", as numpydoc has it."""
    hints = get_type_hints(kind, include_extras=True)
    # a subclass describes its own keys, its bases theirs
    docs = {key: doc for base in reversed(kind.__mro__) for key, doc in _attribute_docs(base.__doc__ or "").items()}
    return [
        OptionDoc(
            key=item.name,
            default=_default(item),
            values=legal_values(hints[item.name]),
            doc=docs.get(item.name, ""),
        )
        for item in dataclasses.fields(kind)
    ]


def legal_values(hint: Any) -> str:
    """A field's type in words: ``1 to 8192 or none``."""
    if hint is bool:
        return "true or false"
    if hint is str:
        return "text"
    if hint in (int, float):
        return "a number"
    if get_origin(hint) is Literal:
        return " or ".join(str(value) for value in get_args(hint))
    if get_origin(hint) is Annotated:
        inner = get_args(hint)[0]
        if inner in (int, float):
            return str(next(iter(numeric_ranges(hint))))
        return legal_values(inner)
    if get_origin(hint) in (tuple, list):
        return f"a list of {legal_values(get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint):
        return "a table"
    return " or ".join(dict.fromkeys(map(legal_values, get_args(hint)))) or "text"


def _default(item: dataclasses.Field[Any]) -> object:
    if item.default is not dataclasses.MISSING:
        return item.default
    made = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
    return dataclasses.asdict(made) if dataclasses.is_dataclass(made) and not isinstance(made, type) else made


def _attribute_docs(docstring: str) -> dict[str, str]:
    """Key to description; several keys of one entry, separated by commas, get the same one."""
    text = inspect.cleandoc(docstring)
    found = _SECTION.search(text)
    if found is None:
        return {}
    docs: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", _NEXT_SECTION.split(text[found.end() :])[0]):
        names, _, described = entry.partition("\n")
        for name in names.split(","):
            docs[name.strip()] = " ".join(_ROLE.sub(r"\1", described).replace("``", "").split())
    return docs
