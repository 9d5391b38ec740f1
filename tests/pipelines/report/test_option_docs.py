"""Keys, defaults, legal values and descriptions of options, from fields and docstrings."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.options import Count, Options, Share, Width
from mettle_cache.pipelines.report.option_docs import OptionDoc, legal_values, option_docs


@dataclass(frozen=True, kw_only=True)
class Base(Options):
    """What both have.

    Attributes
    ----------
    rate
        The share of :class:`mettle_cache.options.Share` that goes,
        over ``two`` lines.
    """

    rate: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """One more.

    Attributes
    ----------
    first, second
        Counts.
    base
        A table.

    Notes
    -----
    not
        a key
    """

    first: Count = 1
    second: Count = 2
    base: Base = field(default_factory=Base)
    silent: str = "word"


def test_keys_of_bases_come_first_each_with_its_description():
    assert option_docs(Derived) == [
        OptionDoc(
            key="rate",
            default=0.5,
            values="0 to 1",
            doc="The share of mettle_cache.options.Share that goes, over two lines.",
        ),
        OptionDoc(key="first", default=1, values="1 to 10000", doc="Counts."),
        OptionDoc(key="second", default=2, values="1 to 10000", doc="Counts."),
        OptionDoc(key="base", default={"rate": 0.5}, values="a table", doc="A table."),
        OptionDoc(key="silent", default="word", values="text", doc=""),
    ]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (float, "a number"),
        (Literal["a", "b"], "a or b"),
        (Width | Literal["none"], "1 to 8192 or none"),
        (Annotated[tuple[Count, ...], Field(max_length=3)], "a list of 1 to 10000"),
        (bool | Literal["auto"], "true or false or auto"),
    ],
)
def test_types_in_words(hint, words):
    assert legal_values(hint) == words


def test_every_key_of_lcd_is_described():
    docs = option_docs(LCDOptions)
    assert [doc.key for doc in docs if not doc.doc] == []
    assert {doc.key: doc.values for doc in docs}["k_visual"] == "1 to 1024 or a list of 1 to 1024"
