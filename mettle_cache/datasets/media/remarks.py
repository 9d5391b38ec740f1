"""What the media of clips showed while they were looked at: nothing is wrong, and their user should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LISTED = 3


@dataclass(frozen=True)
class Remark:
    """Something about one clip: ``what`` reads on from "3 of 40 clips", ``then`` says what is done about it.

    ``value`` is what differs among the clips of which the same is said, if anything: a number of pictures, for one.
    """

    what: str
    then: str
    value: str = ""


def summarise(remarks: Mapping[str, Sequence[Remark]], clips: int) -> tuple[str, ...]:
    """One line for all clips of which the same is said; ``remarks`` by clip id, ``clips`` how many were looked at.

    >>> remark = Remark("hold other pictures", "they are read as they are")
    >>> summarise({"street_01": [remark]}, 40)
    ('1 of 40 clips hold other pictures, such as street_01: they are read as they are',)
    """
    said: dict[tuple[str, str], dict[str, str]] = {}
    for clip, listed in remarks.items():
        for remark in listed:
            said.setdefault((remark.what, remark.then), {}).setdefault(clip, remark.value)
    return tuple(
        f"{len(of)} of {clips} clips {what}{_values(of)}, such as {next(iter(of))}: {then}"
        for (what, then), of in said.items()
    )


def _values(of_clip: Mapping[str, str]) -> str:
    counts = Counter(value for value in of_clip.values() if value)
    if not counts:
        return ""
    listed = [f"{value} in {count}" for value, count in counts.most_common(_LISTED)]
    rest = len(counts) - len(listed)
    return f" ({', '.join(listed)}{f', {rest} other numbers' if rest else ''})"
