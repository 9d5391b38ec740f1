"""TOML that people write, such as recipes and sweeps, and what of it is refused before it can hurt."""

from __future__ import annotations

import tomllib
from typing import Any

from mettle_cache.options import TOO_MUCH

# parsing takes time that grows with the square of a key's parts
_MAX_DOTS = 100


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document; ValueError for anything else, however it is made to hurt."""
    if any(line.count(".") > _MAX_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(TOO_MUCH) from error
