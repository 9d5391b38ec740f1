"""The configuration of a recoding, and the report of its outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.codec_choice import CodecChoice, parse_codec
from mettle_cache.pipelines.places import require_store
from mettle_cache.store.format.codecs import get_codec
from mettle_cache.store.format.layout import MOST_CLIPS_PER_SHARD


@dataclass(frozen=True, kw_only=True)
class RecodeConfig:
    """One recoding.

    Attributes
    ----------
    store
        A finished store, in float16 or int8 or in ``codec`` itself.
    codec
        ``NAME``, or ``NAME=STORE`` with the static arrays of a store that is there.
    part
        (i, n), i from 0: only the clips of the i-th of n runs. The part that comes last finishes the new store.
    clips_per_shard
        None: a copy has those of the store, another one what is best for its size.

    Raises
    ------
    ConfigError
        All that is wrong with the above and can be seen without touching the disk.
    """

    store: Path
    codec: str
    out: Path
    part: tuple[int, int] = (0, 1)
    clips_per_shard: int | None = None

    @property
    def choice(self) -> CodecChoice:
        return parse_codec(self.codec)

    def check(self) -> None:
        """Refuse unknown codecs and wrong places, before anything slow is loaded. Raises UsageError, StoreError."""
        get_codec(self.choice.name)
        require_store(self.store)
        here, there = self.store.resolve(), self.out.resolve()
        if here == there:
            raise UsageError(f"--out {self.out} is the store itself", hint="give the new store a place of its own")
        if here in there.parents or there in here.parents:
            raise UsageError(
                f"{self.store} and --out {self.out} lie in each other", hint="give the new store a place of its own"
            )

    def __post_init__(self) -> None:
        problems = resolve_fields(self, "store", "out")
        if not 0 <= self.part[0] < self.part[1]:
            problems.append(f"--part {self.part[0] + 1}/{self.part[1]}: the first number must be from 1 to the second")
        if self.clips_per_shard is not None and not 1 <= self.clips_per_shard <= MOST_CLIPS_PER_SHARD:
            problems.append(f"--clips-per-shard {self.clips_per_shard}: must be from 1 to {MOST_CLIPS_PER_SHARD:,}")
        try:
            parse_codec(self.codec)
        except UsageError as error:
            problems.append(f"--codec: {error.message}")
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle recode --help")


@dataclass(frozen=True, kw_only=True)
class RecodeReport:
    """The outcome of a recoding; the fields are those of an extraction's report.

    ``source`` is the store that was read, in ``source_codec``; ``failed`` counts the clips without tokens, those that
    the source lacks included.
    """

    store: Path
    source: Path
    source_codec: str
    codec: str
    clips: int
    written: int
    skipped: int
    failed: int
    pending: int
    nbytes: int
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the new store can be read."""
        return self.pending == 0

    @property
    def ok(self) -> bool:
        """Whether this run has recoded every clip that it met."""
        return not self.failures

    def to_json(self) -> dict[str, object]:
        paths = {"store": str(self.store), "source": str(self.source)}
        return {**asdict(self), **paths, "finished": self.finished, "ok": self.ok}
