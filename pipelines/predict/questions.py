"""What a head is asked about each window: nothing, or questions, in the words that it was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from torch import Tensor

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.predict.head import TrainedHead
from mettle_cache.tasks.protocol import Task

_ASKS = "question"
_LISTED = 8


@dataclass(frozen=True)
class Asked:
    """The questions as they are understood, none where the task has none, and each one's inputs of the model.

    A task without questions is asked once, with no inputs.
    """

    questions: tuple[str, ...]
    inputs: tuple[Mapping[str, Tensor], ...]
    task: Task


def ask(head: TrainedHead, questions: Sequence[str]) -> Asked:
    """Questions as inputs of the head's model.

    Raises
    ------
    UsageError
        The task wants a question and none is given, takes none, or a question has words that the head never saw.
    """
    wants = _ASKS in head.task.sample_schema.names
    if not wants and questions:
        raise UsageError(f"the task {head.recipe.task} takes no question", hint="leave --question away")
    if not wants:
        return Asked((), ({},), head.task)
    if not questions:
        raise UsageError("this head answers questions, and none is asked", hint='ask one: --question "..."')
    known = head.origin.vocabulary.get("words", [])
    words = [" ".join(_words(question, known)) for question in questions]
    task = head.task_on(_samples(head.task.sample_schema, words))
    rows = range(len(words))
    inputs = [task.inputs([row], split_rows=list(rows), rng=None).tensors for row in rows]
    return Asked(tuple(words), tuple(inputs), task)


def _words(question: str, known: Sequence[str]) -> list[str]:
    """The question's words as the vocabulary writes them; raises UsageError for words that it lacks."""
    given = question.strip().removesuffix("?").split()
    if not given:
        raise UsageError("the question is empty", hint='ask one: --question "..."')
    exact = set(known[1:])
    folded = {word.casefold(): word for word in reversed(known[1:])}
    words = [word if word in exact else folded.get(word.casefold(), "") for word in given]
    unknown = [word for word, found in zip(given, words, strict=True) if not found]
    if unknown:
        near = [match for word in unknown for match in difflib.get_close_matches(word, known[1:], n=2)]
        hint = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
        listed = ", ".join(known[1 : _LISTED + 1])
        raise UsageError(
            f"the head does not know the word{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}: it was "
            f"trained on the {len(known) - 1} words of its questions, and has none for others",
            hint=f"{hint}ask in its words; they begin with {listed}, and are all in the run's tokens.json",
        )
    return words


def _samples(schema: pa.Schema, questions: Sequence[str]) -> pa.Table:
    """The questions as samples; whatever else a sample has is empty."""
    empty: dict[str, list[object]] = {
        field.name: [0 if pa.types.is_integer(field.type) else ""] * len(questions) for field in schema
    }
    return pa.table({**empty, _ASKS: list(questions)}, schema=schema)
