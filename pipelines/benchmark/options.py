"""What every bench can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.errors import ConfigError
from mettle_cache.pipelines.timing import LEAST_REPEATS

MOST_REPEATS, MOST_CLIPS = 1000, 100_000


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to run a bench.

    Attributes
    ----------
    clips
        How many clips to work on; None: the bench's own number.
    tiny
        Toy shapes, in seconds: to try a bench out.
    folder
        Where temporary files go; None: the disk that the stores are on by default.
    device
        None: a GPU where there is one.

    Raises
    ------
    ConfigError
        All that is wrong with the above.
    """

    repeats: int = LEAST_REPEATS
    clips: int | None = None
    tiny: bool = False
    folder: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle bench --help")

    def _problems(self) -> Iterator[str]:
        if not 1 <= self.repeats <= MOST_REPEATS:
            yield f"--repeats {self.repeats}: must be from 1 to {MOST_REPEATS}"
        if self.clips is not None and not 1 <= self.clips <= MOST_CLIPS:
            yield f"--clips {self.clips}: must be from 1 to {MOST_CLIPS}"

    def command(self, bench: str) -> str:
        """The command line that asks for the same; without the folder, which is this machine's own."""
        parts = [f"mettle bench {bench}", f"--repeats {self.repeats}"]
        if self.clips is not None:
            parts.append(f"--clips {self.clips}")
        if self.tiny:
            parts.append("--tiny")
        if self.device is not None:
            parts.append(f"--device {self.device}")
        return " ".join(parts)
