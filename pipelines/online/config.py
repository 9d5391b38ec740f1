"""A request for training without a store: an extraction's options, and those of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.train.config import TrainJob

CODEC = "float16"
"""What tokens are rounded to where nobody says: nothing is stored, so small codes save nothing."""
# options that are not called as their fields
_NAMES = {"options": "option"}


@dataclass(frozen=True, kw_only=True)
class OnlineJob:
    """Train as ``training`` says, on tokens that are computed as ``extraction`` says.

    Raises
    ------
    UsageError
        The two exclude each other.
    """

    extraction: ExtractConfig
    training: TrainJob

    @classmethod
    def of_options(cls, training: TrainJob, given: Mapping[str, Any]) -> OnlineJob:
        """From the extraction's options that were given, by field; the others are at their defaults.

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
        options = {"codec": CODEC, **given, "device": training.device}
        return cls(extraction=ExtractConfig(**options), training=training)

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


def refuse_without_online(given: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse options of an extraction where there is none; a run to resume may have moved media. Raises UsageError."""
    allowed = {"root"} if resume else set()
    surplus = [f"--{_NAMES.get(name, name).replace('_', '-')}" for name in given if name not in allowed]
    if surplus:
        raise UsageError(
            f"{', '.join(surplus)}: these are for --online, which computes tokens; a store has its own",
            hint="leave them out, or train without a store: --online --dataset NAME",
        )
