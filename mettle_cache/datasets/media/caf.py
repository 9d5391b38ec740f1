"""Whether a CAF file holds the samples that its header promises: FFmpeg reads what is there and says nothing.

Source: Apple Core Audio Format Specification 1.0, "The CAF File Structure".
"""

from __future__ import annotations

from pathlib import Path

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.riff import SLACK

_MOST_CHUNKS = 1000
_UNTOLD = (1 << 64) - 1
"""The length of samples that go on to the file's end."""


def check_caf(path: Path, size: int) -> None:
    """Look at the lengths of the chunks of a file of ``size`` bytes, if it is of this kind. Raises MediaFileError."""
    with path.open("rb") as file:
        if file.read(8)[:4] != b"caff":
            return
        end = 8
        for _ in range(_MOST_CHUNKS):
            file.seek(end)
            head = file.read(12)
            length = int.from_bytes(head[4:], "big")
            if len(head) < 12 or (head[:4] == b"data" and length == _UNTOLD):
                break
            end += 12 + length
    if end > size + SLACK:
        raise MediaFileError(path, f"is cut off: its chunks go on to byte {end}, the file has {size}")
