"""Clips that fail, and when they are no longer the exception.

One clip that cannot be read is that clip's failure. When nothing but failures comes, something is wrong that the clips
share: a library, a package, a backbone. Then the run stops, and holds nothing against the clips: a store in which all
of them are recorded as failed would look finished.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from mettle_cache.errors import MettleError
from mettle_cache.pipelines.extract.stream import Outcome
from mettle_cache.store.writing.writer import StoreWriter

MOST_BEFORE_A_SUCCESS = 20
LISTED = 5


class EveryClipFailsError(MettleError):
    """No clip of an extraction could be extracted."""


@dataclass
class Failures:
    """Records a run's failed clips in the store, from the first clip on that does not fail.

    ``failed_before`` are clips that an earlier run recorded: that they fail again says nothing new. ``some_are_stored``
    says that the store has tokens of some clip, ``trusted`` that failures are then the exception.
    """

    writer: StoreWriter
    failed_before: Collection[int]
    some_are_stored: bool
    trusted: bool
    _held: dict[int, str] = field(default_factory=dict)
    _left_out: dict[int, str] = field(default_factory=dict)
    _hint: str | None = None

    @classmethod
    def of_run(cls, writer: StoreWriter, *, skip: bool) -> Self:
        """Those of a run that goes on with what the store has; ``skip`` is whether its user lets clips be left out.

        Then clips that are stored already are enough to trust the others: the last ones to come may all be broken.
        """
        statuses = writer.statuses()
        failed = {index for index, status in enumerate(statuses) if status == "failed"}
        return cls(writer, failed, "ok" in statuses, trusted=skip and "ok" in statuses)

    def leave_out(self, index: int, reason: str) -> None:
        """Record a clip at once: one that is known to be missing, and may be, or that has failed before."""
        self._left_out[index] = reason
        self.writer.fail_clip(index, reason)

    def add(self, outcome: Outcome) -> None:
        """A clip was written, or failed.

        Raises
        ------
        EveryClipFailsError
            As many as :data:`MOST_BEFORE_A_SUCCESS` have failed and none was written.
        """
        if outcome.error is None:
            self.some_are_stored = self.trusted = True
        elif outcome.index in self.failed_before:
            self.leave_out(outcome.index, outcome.error)
        else:
            self._held[outcome.index] = outcome.error
            self._hint = self._hint or outcome.hint
        if self.trusted:
            self._record()
        elif len(self._held) >= MOST_BEFORE_A_SUCCESS:
            raise self._every_clip(f"the first {len(self._held)} clips all failed", self._held)

    def close(self) -> None:
        """The run's clips are through: record what has failed.

        Raises
        ------
        EveryClipFailsError
            Every clip failed and the store has no other, or it would be finished without any.
        """
        if self.some_are_stored:
            self._record()
        elif self._held:
            raise self._every_clip(f"none of the {len(self._held)} clips could be extracted", self._held)
        elif None not in self.writer.statuses():
            raise self._every_clip(f"none of {len(self.writer.clips)} clips has tokens", self._left_out)

    def _record(self) -> None:
        for index, reason in self._held.items():
            self.writer.fail_clip(index, reason)
        self._held.clear()

    def _every_clip(self, what: str, failed: Mapping[int, str]) -> EveryClipFailsError:
        clips_of: dict[str, list[str]] = {}
        for index, reason in failed.items():
            clips_of.setdefault(reason, []).append(self.writer.clips[index])
        lines = [
            f"{clips[0]}{f' and {len(clips) - 1} others' if len(clips) > 1 else ''}: {reason}"
            for reason, clips in list(clips_of.items())[:LISTED]
        ]
        rest = [f"... and {len(clips_of) - LISTED} other reasons"] if len(clips_of) > LISTED else []
        return EveryClipFailsError(
            "\n  - ".join((f"{what}; the store {self.writer.path} stays unfinished:", *lines, *rest)),
            hint=self._hint
            or "mend what they share and run the same command again. If these files really are broken, take them "
            "away: clips that are missing are left out with --skip-missing",
        )
