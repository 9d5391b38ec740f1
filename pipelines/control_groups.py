"""What a container, or another control group of Linux, leaves this process of memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """Where groups lie, and the files of one. ``inactive`` is in its statistics: pages that the system can drop."""

    folder: str
    limit: str
    used: str
    inactive: str


# by the controllers of a line of /proc/self/cgroup: version 2 names none
_VERSIONS = {
    "": _Version("", "memory.max", "memory.current", "inactive_file"),
    "memory": _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def memory_left(groups: Path = GROUPS, own: Path = OWN) -> int | None:
    """Bytes that this process and its group may still take; None where nothing limits them."""
    left = [max(0, room) for room in _rooms(groups, own)]
    return min(left, default=None)


def _rooms(groups: Path, own: Path) -> Iterator[int]:
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        version = _VERSIONS.get(controllers)
        if version is None:
            continue
        top = groups / version.folder
        # inside a container the path may be that of the machine, where nothing is: its own group is then the top
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(top):
                yield from _room(folder, version)


def _room(folder: Path, version: _Version) -> Iterator[int]:
    limit, used = _text(folder / version.limit).strip(), _text(folder / version.used).strip()
    # version 2 says "max" where there is none; that of version 1 is beyond any machine's memory
    if limit.isdigit() and used.isdigit():
        statistics = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
        yield int(limit) - int(used) + int(statistics.get(version.inactive, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
