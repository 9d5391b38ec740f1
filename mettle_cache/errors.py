"""The errors that a user meets, and the exit code that each one ends a command with.

Every message says what went wrong and where; ``hint`` says what to run or change next.
Exit code 2 means that the request was wrong, 1 that the work found a problem.
"""

from __future__ import annotations

from collections.abc import Sequence


class MettleError(Exception):
    """A problem that the user can do something about; printed without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments get lost in the default pickling, and dask sends errors between processes
        return _rebuild, (type(self), self.message, self.hint, dict(self.__dict__))


def _rebuild(kind: type[MettleError], message: str, hint: str | None, state: dict[str, object]) -> MettleError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class UsageError(MettleError):
    """The request itself is wrong: an unknown name, a missing folder, options that exclude each other."""

    exit_code = 2


class ConfigError(UsageError):
    """Everything that is wrong with a configuration, in one message."""

    def __init__(self, problems: Sequence[str], *, where: str, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{where}:", *(f"  - {problem}" for problem in problems)]), hint=hint)


class OptionsError(ConfigError, ValueError):
    """Options with values that are not allowed; a ValueError too, so that pydantic reports it with others."""


class PluginError(MettleError):
    """A data set, backbone, method, codec, decoder or task that another package registered and that cannot be used."""


class MachineError(MettleError):
    """The machine cannot go on: its memory, its open files, its disks or its device are at an end."""


class DatasetError(MettleError):
    """Annotation files that are missing, malformed or inconsistent."""


class MediaError(MettleError):
    """A picture, a recording or a video that is missing or cannot be decoded."""


class WeightsError(MettleError):
    """Backbone weights that are missing, unreadable or of another architecture."""


class StoreError(MettleError):
    """A problem with a token store."""


class TokensError(StoreError):
    """Tokens of a clip that a store cannot hold: not finite, beyond its codec, or not of its layers."""


class StoreMissingError(StoreError):
    """There is no store at that path."""

    exit_code = 2


class StoreUnfinishedError(StoreError):
    """The store has no READY record, or the clip is not committed."""


class StoreCorruptError(StoreError):
    """Bytes on disk that are not the bytes that were committed."""


class StoreKeyError(StoreError):
    """The store was made by another configuration."""


class StoreSourcesError(StoreError):
    """The media are not those that the store's clips were made of."""


class StoreBusyError(StoreError):
    """Another process writes the same part of the store."""


class NoRoomError(StoreError):
    """The disk cannot hold what would be written."""


class RunError(MettleError):
    """A training run that is missing, damaged or does not fit its store."""
