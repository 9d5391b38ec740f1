"""What training and evaluation ask of a task; they know nothing else about it.

A task is a folder beside this file and a row of the registry; a data set names its task.
Shapes: B samples of a batch, R samples of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor, nn

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.pooled import PooledLayer
from mettle_cache.methods.registry import MethodChoice

Predictions = Mapping[str, np.ndarray]

Frames = Callable[[str], NDArray[np.uint8] | None]
"""A clip's picture by its id, RGB ``[H, W, 3]``; None where the media are not at hand."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of the paper's tables, under the name of the recipe that reproduces it.

    ``visual`` and ``audio`` are backbone names; audio ``shared`` is the visual backbone reading a log-mel image.
    ``architectures`` are what their fingerprints call the two: a store is recognised without loading a backbone.
    ``scores`` are by metric, ``total_m`` in millions of parameters; it and ``trainable_percent`` are None where nothing
    is printed. ``test_samples`` is the size of the test split that the scores are for.

    ``counting`` says what the totals count. ``unused`` is the number of parameters that the published code registers,
    and therefore counts, but never uses; our models do not have them. ``selected_on`` is the split that selects the
    best epoch in the published code. ``counted_trainable`` names the backbones that the published share counts as
    trainable, though here they are frozen.
    """

    setting: str
    dataset: str
    visual: str
    audio: str
    architectures: tuple[str, str]
    scores: Mapping[str, float]
    total_m: float | None
    trainable_percent: float | None
    source: str
    test_samples: int
    counting: str
    unused: int = 0
    selected_on: str = "test"
    counted_trainable: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepInputs:
    """What a step is given beside the tokens of its own B samples.

    ``rows`` are further samples, by position: their tokens follow the step's own along the leading axis. ``tensors``
    are arguments of the model by name, leading axis B, on the CPU.
    """

    rows: tuple[int, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


AUXILIARY = "auxiliary_"
"""What the names of outputs begin with that are a method's own losses."""


def auxiliary_outputs(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A method's own losses as outputs of a model."""
    return {f"{AUXILIARY}{name}": loss for name, loss in losses.items()}


def auxiliary_terms(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model's outputs those that training adds to the task's loss as they are."""
    return {name: value for name, value in outputs.items() if name.startswith(AUXILIARY)}


class Task(Protocol):
    """One task, bound to the layers, samples and vocabulary of one store."""

    sample_schema: ClassVar[pa.Schema]
    """The columns of the samples that the task reads."""
    options_type: ClassVar[type]
    metric: ClassVar[str]
    """The score that selects the best epoch, higher is better."""
    published: ClassVar[tuple[PublishedRow, ...]] = ()
    """The rows of papers that a result can be set beside."""
    published_vocabulary: ClassVar[Mapping[str, Sequence[str]]] = {}
    published_segments: ClassVar[int] = 1
    """The vocabulary and T of the data sets of these rows; only parameters are counted with them."""
    methods: ClassVar[tuple[str, ...] | None] = None
    """The methods that the task takes; None: every one, because one vector a segment and modality is enough."""

    layers: tuple[LayerSpec, ...]
    """The layers that the model reads, of those it was offered."""
    pooled: tuple[PooledLayer, ...] = ()
    """Those of them that it reads on a coarser grid alone."""

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        samples: pa.Table,
        vocabulary: Mapping[str, Sequence[str]],
        segments: int,
        method: MethodChoice,
        options: Any,
    ) -> None: ...

    def build_model(self) -> nn.Module:
        """A model from ``{layer name: LayerTokens [B, T, N, D]}``, and :meth:`inputs` if any, to named outputs.

        Outputs of :func:`auxiliary_outputs` are loss terms, which training adds by itself.
        """

    def initialise(self, model: nn.Module) -> None:
        """Give a new model the weights of the files that the options name; never called for a resumed or scored run.

        Raises
        ------
        WeightsError
            A file that cannot be read or does not fit.
        """
        return

    def inputs(self, rows: Sequence[int], *, split_rows: Sequence[int], rng: np.random.Generator | None) -> StepInputs:
        """What the model is given beside the tokens of ``rows``.

        ``split_rows`` holds all samples of their split. ``rng`` is None where nothing is to be drawn: in evaluation.
        """
        return StepInputs()

    def beside_media(self) -> str:
        """What its model is given that neither pictures, sound nor a question hold, in words; empty for nothing."""
        return ""

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Targets of samples, by position in the sample table, leading axis B."""

    def loss(self, model: nn.Module, outputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Named terms; the loss is their sum."""

    def interpret(self, outputs: dict[str, Tensor]) -> Predictions:
        """What outputs say of B samples by themselves, by name, each with leading axis B: decisions and probabilities.

        No sample of the task's table is looked at: the task may have none, and the media be new. Decisions are those
        that :meth:`score` counts; probabilities are float32, 0 to 1, and of every class.

        Raises
        ------
        UsageError
            The task does not say it.
        RunError
            An output is not finite.
        """
        raise UsageError(
            f"{type(self).__name__} does not say what its outputs mean without targets",
            hint="the task can say it by a method interpret of its own",
        )

    def predict(self, outputs: dict[str, Tensor], rows: Sequence[int]) -> Predictions:
        """Predictions by name, each with leading axis B; small, because those of a whole split are kept.

        By itself what :meth:`interpret` says; a task adds here what needs the targets, and leaves out what is large.
        """
        return self.interpret(outputs)

    def score(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, float]:
        """The published metrics over predictions of R samples, ``metric`` among them."""

    def sample_scores(self, predictions: Predictions, rows: Sequence[int]) -> NDArray[np.float64]:
        """What each of R samples scores alone in ``metric``; where that is a mean over samples, its terms."""
        scores = []
        for place, row in enumerate(rows):
            alone = {name: array[place : place + 1] for name, array in predictions.items()}
            scores.append(self.score(alone, [row])[self.metric])
        return np.array(scores)

    def sample_terms(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        """What each of R samples scores alone, by score: ``metric``, and others that are means over samples.

        Differences of two heads in these are told with an interval.
        """
        return {self.metric: self.sample_scores(predictions, rows)}

    def changed_share(self, predictions: Predictions, others: Predictions) -> float:
        """The share, 0 to 1, in which two heads differ of what they decide for the same samples.

        By itself the share of differing values in all that is no floating-point number: probabilities always differ.
        """
        names = [name for name, array in predictions.items() if not np.issubdtype(np.asarray(array).dtype, np.floating)]
        differing = [np.asarray(predictions[name]) != np.asarray(others[name]) for name in names or predictions]
        return float(sum(array.sum() for array in differing) / sum(array.size for array in differing))

    def details(self, predictions: Predictions, rows: Sequence[int]) -> dict[str, object]:
        """What else a reader of a result wants to see, as JSON."""
        return {}

    def floors(self, rows: Sequence[int]) -> dict[str, float]:
        """The ``metric`` that predictions without any model reach, by name."""

    def prediction_table(self, predictions: Predictions, rows: Sequence[int]) -> pa.Table:
        """Predictions beside their targets, names and scores of every class, one row for each thing that is scored."""

    def artefacts(self, predictions: Predictions, rows: Sequence[int], frames: Frames) -> Iterator[tuple[str, bytes]]:
        """Files that show predictions of R samples: the path within a folder of their own, and the content."""
        return iter(())
