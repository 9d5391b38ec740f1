"""What makes the same run give the same bits in another process."""

from __future__ import annotations

import os


def fix_summation_order() -> None:
    """Make MKL add in one order, whatever ran before; it reads this before a process's first product only.

    Extraction asks for the same. Without it here, a head's weights would depend on whether a backbone had been looked
    at earlier in the process.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
