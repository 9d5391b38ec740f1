"""Places on the hub: ``hf://USER/NAME``, with ``@REVISION`` and, where it has to be said, ``hf://datasets/USER/NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mettle_cache.errors import UsageError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_FORM = re.compile(rf"hf://(?:(datasets|models)/)?({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")


@dataclass(frozen=True)
class Address:
    """A repository; ``kind`` is ``dataset``, ``model`` or None where nobody says; ``revision`` a branch or commit."""

    repo: str
    revision: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        kind = f"{self.kind}s/" if self.kind else ""
        return f"hf://{kind}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> Address:
    """An address as users write it. Raises UsageError for anything else."""
    match = _FORM.fullmatch(text)
    if match is None or ".." in text or "--" in match[2]:
        raise UsageError(f"'{text}' is no place on the hub", hint="write hf://USER/NAME or hf://USER/NAME@REVISION")
    return Address(match[2], match[3], match[1].removesuffix("s") if match[1] else None)
