"""A request for training without a store: an extraction's options, and those of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.train.config import TrainJob

CODEC = "float16"
"""What tokens are rounded to where nobody says and nothing is stored: small codes save nothing then."""
# options that are not called as their fields
_NAMES = {"options": "option"}


@dataclass(frozen=True, kw_only=True)
class OnlineJob:
    """Train as ``training`` says, on tokens that are computed as ``extraction`` says.

    ``fill``: they are written to the extraction's store, too, and read from it once they are there.

    Raises
    ------
    UsageError
        The two exclude each other.
    """

    extraction: ExtractConfig
    training: TrainJob
    fill: bool = False

    @classmethod
    def of_options(cls, training: TrainJob, given: Mapping[str, Any], fill: str | None = None) -> OnlineJob:
        """From the extraction's options that were given, by field; the others are at their defaults.

        ``fill`` is the store to fill, empty for where an extraction would put it; None: none is filled.

        Raises
        ------
        UsageError, ConfigError
            They cannot be used, or not together.
        """
        if training.store is not None:
            raise UsageError(
                f"--online computes tokens anew, --from-cache {training.store} reads them",
                hint="give one of them; a store with the tokens is faster in every epoch",
            )
        if training.resident not in ("auto", "disk"):
            raise UsageError(
                f"--resident {training.resident}: that keeps what was read from a store, and --online reads none",
                hint="leave it out; a store is read once and stays where memory allows",
            )
        if "dataset" not in given:
            raise UsageError("--online needs the data set", hint="for example --online --dataset ave --root data/AVE")
        options = {**given, "device": training.device}
        if fill is None:
            return cls(extraction=ExtractConfig(**{"codec": CODEC, **options}), training=training)
        return cls(extraction=ExtractConfig(**options, out=Path(fill) if fill else None), training=training, fill=True)

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything slow is loaded. Raises UsageError, PluginError."""
        self.extraction.check_names()
        self.training.check_choices()

    @property
    def failed_before(self) -> dict[str, str]:
        """Clips that the run to resume, if there is one, was trained without. Raises RunError for a damaged one."""
        out = self.training.out
        if not self.training.resume or out is None or not out.is_dir():
            return {}
        from mettle_cache.pipelines.train.run_folder import RunFolder

        configs = [*out.glob("config.json"), *out.glob("seed-*/config.json")]
        if not configs:
            return {}
        computed = RunFolder(configs[0].parent).read_config().store.computed
        return dict(computed["failed"]) if computed else {}


def splits_of(select_on: str) -> tuple[str, ...]:
    """The splits that a training reads."""
    return ("train", *(() if select_on == "last" else (select_on,)))


def refuse_without_online(given: Mapping[str, Any], fill: str | None, *, resume: bool) -> None:
    """Refuse options of an extraction where there is none; a run to resume may have moved media and weights.

    Raises
    ------
    UsageError
        Names the options.
    """
    allowed = {"root", "visual", "audio"} if resume else set()
    surplus = [] if fill is None else ["--fill-cache"]
    surplus += [f"--{_NAMES.get(name, name).replace('_', '-')}" for name in given if name not in allowed]
    if surplus:
        raise UsageError(
            f"{', '.join(surplus)}: these are for --online, which computes tokens; a store has its own",
            hint="leave them out, or train without a store: --online --dataset NAME",
        )
