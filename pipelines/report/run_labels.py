"""Short names of runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def run_labels(paths: Sequence[Path]) -> list[str]:
    """What tells runs apart: their paths below the folder that they have in common, without the end that all have."""
    absolute = [path.absolute() for path in paths]
    if not absolute:
        return []
    common = os.path.commonpath([path.parent for path in absolute])
    relative = [path.relative_to(common) for path in absolute]
    while len(relative) > 1 and len({path.name for path in relative}) == 1:
        relative = [path.parent for path in relative]
    return [path.as_posix() for path in relative]
