"""MUSIC-AVQA's json files: questions made from templates, nothing in them trusted.

Source: docs/protocols/avqa.md, "Questions".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.textfile import Problems, id_problem, quoted, read_bytes
from mettle_cache.errors import DatasetError

KINDS = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""The nine types: what a question is about, by modality."""

MAX_FILE_BYTES = 32 << 20
"""Three times the published files; JSON takes up to 25 times its size in memory."""
MAX_WORDS = 64
_MAX_TEXT = 1000
_MARKS = ("?", "\uff1f")
_TEXTS = ("video_id", "type", "question_content", "templ_values", "anser")


@dataclass(frozen=True)
class Question:
    """One entry. ``template`` still has its slots, ``words`` have them filled and no question mark."""

    clip: str
    number: int
    modality: str
    kind: str
    template: str
    words: tuple[str, ...]
    answer: str
    deleted: bool


def read_questions(path: Path, problems: Problems) -> list[Question]:
    """The entries of one json file, in order; those that are wrong are added to ``problems`` and left out.

    Raises
    ------
    DatasetError
        The file cannot be read, is far too large, or is no list of entries at all.
    """
    questions = []
    for index, entry in enumerate(_read_list(path)):
        parsed = parse_question(entry)
        if isinstance(parsed, str):
            problems.add(f"{path}: entry {index}: {parsed}")
        else:
            questions.append(parsed)
    return questions


def parse_question(entry: object) -> Question | str:
    """The question of one entry, or what is wrong with it."""
    if not isinstance(entry, dict):
        return f"a {type(entry).__name__} where an object with {', '.join(_TEXTS)} should be"
    if wrong := _wrong_fields(entry):
        return wrong
    modality, kind = _parse_type(entry["type"])
    if kind not in KINDS.get(modality, ()):
        return f'type {quoted(entry["type"])} is none of the nine, such as \'["Audio", "Counting"]\''
    words = fill_template(entry["question_content"], entry["templ_values"])
    if isinstance(words, str):
        return words
    return Question(
        clip=entry["video_id"],
        number=entry.get("question_id", -1),
        modality=modality,
        kind=kind,
        template=entry["question_content"].strip(),
        words=words,
        answer=entry["anser"],
        deleted=bool(entry.get("question_deleted", 0)),
    )


def fill_template(template: str, values: str) -> tuple[str, ...] | str:
    """The words of a question, or why its slots do not fit.

    Words are what single spaces separate; the last character, a question mark of either width, is dropped; every word
    with a ``<`` in it is replaced by the next of ``values``, a string that holds a list.

    >>> fill_template("Is the <Object> louder than the <Object>? ", '["tuba", "erhu"]')
    ('Is', 'the', 'tuba', 'louder', 'than', 'the', 'erhu')
    """
    fillings = _parse_list(values)
    if fillings is None:
        return f"templ_values {quoted(values)} is not a list of words, such as '[\"tuba\"]'"
    text = template.rstrip()
    if not text.endswith(_MARKS):
        return f"question {quoted(template)} does not end with a question mark"
    words = text[:-1].split(" ")
    if len(words) > MAX_WORDS or not all(_is_word(word) for word in words):
        return f"question {quoted(template)} is not 1 to {MAX_WORDS} words with one space between them"
    slots = sum("<" in word for word in words)
    if slots != len(fillings):
        return f"question {quoted(template)} has {slots} slots for {len(fillings)} values {quoted(values)}"
    following = iter(fillings)
    return tuple(next(following) if "<" in word else word for word in words)


def _wrong_fields(entry: Mapping[str, object]) -> str | None:
    missing = [name for name in _TEXTS if name not in entry]
    if missing:
        return f"has no {', '.join(missing)}"
    for name in _TEXTS:
        value = entry[name]
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.strip().isprintable():
            return f"{name} is {quoted(str(value))}, not a line of text"
    for name in ("question_id", "question_deleted"):
        value = entry.get(name, 0)
        if type(value) is not int or abs(value) >= 1 << 62:
            return f"{name} is {quoted(str(value)[:80])}, not a whole number"
    return id_problem(str(entry["video_id"]))


def _parse_type(text: str) -> tuple[str, str]:
    parts = _parse_list(text) or []
    return (parts[0], parts[1]) if len(parts) == 2 else ("", "")


def _parse_list(text: str) -> list[str] | None:
    """The words of a JSON list in a string."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return values if all(_is_word(value) and "<" not in value for value in values) else None


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isprintable() and not any(letter.isspace() for letter in text)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Without this the last of two answers would count, and nobody would see it."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        twice = next(key for key in entry if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"an object names {quoted(twice)} twice")
    return entry


def _whole_number(digits: str) -> int | str:
    """A number, or its digits where they are more than any number here has: they become that entry's problem."""
    return int(digits) if len(digits) <= 20 else digits


def _read_list(path: Path) -> Sequence[object]:
    data = read_bytes(path, limit=MAX_FILE_BYTES)
    try:
        entries = json.loads(data, object_pairs_hook=_unique_keys, parse_int=_whole_number)
    except RecursionError as error:
        raise DatasetError(f"{path} is nested far deeper than a list of questions") from error
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{path} holds a {type(entries).__name__}, not a list of questions")
    if not entries:
        raise DatasetError(f"{path} holds no questions")
    return entries
