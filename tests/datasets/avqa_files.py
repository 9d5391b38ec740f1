"""MUSIC-AVQA's json as the release writes it, to break."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

QUESTIONS = {
    "train": [
        ("00000028", ("Audio-Visual", "Existential"), "Is the <Object> in the video always playing?", ["tuba"], "yes"),
        ("00000028", ("Audio", "Comparative"), "Is the <Object> louder than the <Object>?", ["erhu", "tuba"], "no"),
        (
            "sa00000001",
            ("Audio", "Counting"),
            "How many musical instruments were heard throughout the video?",
            [],
            "one",
        ),
        ("00000031", ("Visual", "Location"), "Where is the performance? ", [], "indoor"),
    ],
    "val": [
        ("00000044", ("Audio-Visual", "Existential"), "Is the <Object> in the video always playing?", ["erhu"], "no")
    ],
    "test": [
        ("00000044", ("Visual", "Location"), "Where is the performance\uff1f", [], "indoor"),
        ("00000045", ("Audio", "Counting"), "How many musical instruments were heard throughout the video?", [], "no"),
    ],
}


def entry(clip: str, kind: Sequence[str], template: str, values: Sequence[str], answer: str, number: int = 1) -> dict:
    """One entry with the release's field names, ``anser`` among them."""
    return {
        "video_id": clip,
        "question_id": number,
        "type": json.dumps(list(kind)),
        "question_content": template,
        "templ_values": json.dumps(list(values)),
        "question_deleted": 0,
        "anser": answer,
    }


def entries(split: str) -> list[dict]:
    return [entry(*question, number=7) for question in QUESTIONS[split]]


def write_questions(root: Path, release: str = "json_update", **changed: object) -> Path:
    """Write the three files, those that are named in ``changed`` with another content; the root."""
    (root / release).mkdir(parents=True, exist_ok=True)
    for split in QUESTIONS:
        content = changed.get(split, entries(split))
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (root / release / f"avqa-{split}.json").write_text(text, encoding="utf-8")
    return root


def replaced(**fields: object) -> Mapping[str, object]:
    """The first train entry with other fields; None removes one."""
    changed = {**entries("train")[0], **fields}
    return {name: value for name, value in changed.items() if value is not None}
