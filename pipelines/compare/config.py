"""A request to compare codecs, and the checks of it that need no PyTorch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.devices import check_device_name
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.paths import resolve_fields
from mettle_cache.pipelines.compare.groups import read_groups
from mettle_cache.pipelines.places import require_store
from mettle_cache.pipelines.train.recipe_file import read_recipe
from mettle_cache.store.format.codecs import CODECS
from mettle_cache.store.format.metadata import load_metadata

REFERENCE = "float16"
FRAME_MEAN = "klt0"
CLIP_MEAN = "clipmean"
CONTROLS = (FRAME_MEAN, CLIP_MEAN)
"""What must lose for the comparison to say anything: each frame's mean token alone, and the clip's mean token."""
DEFAULT_CODECS = ("int8", "int4", "klt2", "klt1.5")
MOST_SEEDS = 100


@dataclass(frozen=True, kw_only=True)
class CompareJob:
    """Which codecs to compare with float16, on what.

    ``store`` is a finished store in float16. ``seeds`` is a number: seeds 0 to ``seeds - 1``. ``groups`` is a file as
    :func:`~mettle_cache.pipelines.compare.groups.read_groups` takes it. The float16 store and the controls take part
    whether ``codecs`` names them or not. ``recipe``, ``out`` and ``device`` follow from the store where they are None.

    Raises
    ------
    ConfigError
        All that is wrong with the above.
    """

    store: Path
    codecs: tuple[str, ...] = DEFAULT_CODECS
    seeds: int = 5
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    split: str = "test"
    groups: Path | None = None
    out: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        problems = [*resolve_fields(self, "store", "groups", "out"), *filter(None, map(_codec_problem, self.codecs))]
        if not self.codecs:
            problems.append("--codecs: there is none to compare with float16")
        if len(set(self.codecs)) < len(self.codecs):
            problems.append("--codecs: a codec is there twice")
        if not 2 <= self.seeds <= MOST_SEEDS:
            problems.append(f"--seeds {self.seeds}: an interval over seeds needs 2 to {MOST_SEEDS} of them")
        if problems:
            raise ConfigError(problems, where="these options cannot be used", hint="see: mettle compare-codecs --help")

    @property
    def compared(self) -> tuple[str, ...]:
        """Everything that heads are trained on, float16 first, the controls last."""
        between = [name for name in self.codecs if name not in (REFERENCE, *CONTROLS)]
        return (REFERENCE, *between, *CONTROLS)

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything slow is loaded.

        Raises
        ------
        UsageError
            The store is not in float16; there is no such device or recipe; the groups cannot be read.
        StoreMissingError, StoreCorruptError
            There is no store, or its metadata are damaged.
        """
        check_device_name(self.device)
        if self.recipe is not None:
            read_recipe(self.recipe)
        if self.groups is not None:
            read_groups(self.groups)
        require_store(self.store)
        codec = load_metadata(self.store).record.key.codec
        if codec != REFERENCE:
            raise UsageError(
                f"{self.store} is in {codec}: what {codec} has lost already could not be told from what others lose",
                hint=f"extract the same clips with --codec {REFERENCE}, and compare from that store",
            )


def _codec_problem(name: str) -> str:
    """What is wrong with a codec's name; empty for one that can be compared."""
    known = [*CODECS.names(), CLIP_MEAN]
    if name in known:
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"--codecs: there is no codec '{name}': {guess}(known: {', '.join(known)})"
