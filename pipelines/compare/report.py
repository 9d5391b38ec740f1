"""What a comparison of codecs says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mettle_cache.pipelines.compare.config import CLIP_MEAN, FRAME_MEAN
from mettle_cache.pipelines.compare.intervals import Interval

TOLERATED = -1.0
"""Points by which a codec may be worse than float16, at the lower end of its interval, to count as one without loss."""


@dataclass(frozen=True, kw_only=True)
class CodecRow:
    """One codec: the mean and standard deviation of its score over the seeds, in points, and what separates it from
    float16 with the same seeds. ``clip_bytes`` are of one clip of the store with all its layers, None for what is no
    codec; ``changed`` is the share of predictions that differ, 0 to 1. float16 has no ``difference`` from itself.
    """

    codec: str
    clip_bytes: int | None
    score: float
    spread: float
    difference: Interval | None
    changed: float

    @property
    def loses(self) -> bool:
        """Whether it is worse than float16, resolvably."""
        return self.difference is not None and self.difference.high < 0

    @property
    def without_loss(self) -> bool:
        """Whether its whole interval lies above what is tolerated."""
        return self.difference is None or self.difference.low > TOLERATED


@dataclass(frozen=True, kw_only=True)
class CompareReport:
    """Rows by codec, float16 first and the controls last.

    ``seeds_change`` is the share of predictions in which two float16 heads of different seeds differ, ``groups`` the
    number of groups of each column of the groups file, clips included.
    """

    store: Path
    out: Path
    dataset: str
    recipe: str
    metric: str
    split: str
    samples: int
    seeds: int
    epochs: int
    groups: Mapping[str, int]
    floors: Mapping[str, float]
    seeds_change: float
    rows: list[CodecRow]
    notes: list[str] = field(default_factory=list)

    def row(self, codec: str) -> CodecRow:
        return next(row for row in self.rows if row.codec == codec)

    @property
    def judges_klt(self) -> bool:
        """Whether each frame's mean token alone is worse than float16: else nothing is said about codes."""
        return self.row(FRAME_MEAN).loses

    @property
    def judges(self) -> bool:
        """Whether the clip's mean token is worse than float16: else nothing is said about any codec."""
        return self.row(CLIP_MEAN).loses

    def to_json(self) -> dict[str, object]:
        rows = [{**asdict(row), "loses": row.loses, "without_loss": row.without_loss} for row in self.rows]
        verdicts = {"judges": self.judges, "judges_klt": self.judges_klt}
        return {**asdict(self), "rows": rows, **verdicts}
