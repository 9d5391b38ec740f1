"""The loggers by name, those of other packages included."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from mettle_cache.errors import UsageError
from mettle_cache.registry import LoggerRow, Registry

_HERE = "mettle_cache.pipelines.train.loggers"
LOGGERS = Registry(
    "logger",
    "mettle_cache.loggers",
    LoggerRow,
    (
        LoggerRow("tensorboard", f"{_HERE}.tensorboard:TensorBoard", package="tensorboard"),
        LoggerRow("wandb", f"{_HERE}.weights_and_biases:WeightsAndBiases", package="wandb", extra="wandb"),
        LoggerRow("mlflow", f"{_HERE}.mlflow_runs:MLflow", package="mlflow", extra="mlflow"),
    ),
)
DEFAULT = ("tensorboard",)
NONE = "none"


def parse_loggers(texts: Sequence[str]) -> tuple[str, ...]:
    """Names out of words with commas between them; ``none`` stands for no logger at all.

    Raises
    ------
    UsageError
        A logger that is not known or whose package is not installed, or ``none`` beside others.
    """
    names = tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    if NONE in names:
        if len(names) > 1:
            raise UsageError(f"--log {','.join(names)}: none excludes the others")
        return ()
    for name in names:
        row = LOGGERS.row(name)
        if row.package and find_spec(row.package) is None:
            wanted = f"mettle-cache[{row.extra}]" if row.extra else row.package
            raise UsageError(
                f"--log {name}: the package {row.package} is not installed", hint=f"pip install '{wanted}'"
            )
    return names
