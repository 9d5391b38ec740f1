"""One answer to a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mettle_cache.pipelines.page.clips.clip_list import (
    ClipList,
    Terms,
    per_cent,
    schema_names,
    score_matrix,
    scores_of,
)
from mettle_cache.pipelines.report.text import printable

_TOP = 3


def answer_clips(tables: Sequence[pa.Table], terms: Terms) -> ClipList:
    """Items with the question ``q``, the number of its answer ``a``, and for every run its answer ``p``.

    ``c`` are the run's three likeliest answers, ``[number, probability]``, empty where the table holds none.
    """
    first = tables[0].to_pydict()
    columns = [table["prediction"].to_pylist() for table in tables]
    listed = schema_names(tables[0], "answers")
    names = list(dict.fromkeys([*listed, *first["answer"], *(answer for column in columns for answer in column)]))
    number = {name: place for place, name in enumerate(names)}
    likeliest = [_likeliest(table, len(listed)) for table in tables]
    types = [f"{modality} · {kind}" for modality, kind in zip(first["modality"], first["kind"], strict=True)]
    groups = sorted(set(types))
    items = []
    for place, answer in enumerate(first["answer"]):
        given = [column[place] for column in columns]
        top: list[Any] = [one[place] if one else [] for one in likeliest]
        items.append(
            {
                "id": printable(first["clip"][place]),
                "s": [
                    _own_score(known, one == answer) for known, one in zip(scores_of(terms, place), given, strict=True)
                ],
                "x": [ranks[0][1] if ranks and one != answer else None for ranks, one in zip(top, given, strict=True)],
                "g": [groups.index(types[place])],
                "q": printable(first["question"][place]),
                "a": number[answer],
                "p": [number[one] for one in given],
                "c": top,
            }
        )
    return ClipList(
        kind="answers",
        items=items,
        media=[[clip] for clip in first["clip"]],
        names=[printable(name) for name in names],
        groups=[printable(name) for name in groups],
        group_title="type",
        confident=any(one is not None for one in likeliest),
    )


def _own_score(known: float | None, right: bool) -> float:
    return known if known is not None else 100.0 * right


def _likeliest(table: pa.Table, answers: int) -> list[list[list[float | None]]] | None:
    scores = score_matrix(table)
    if scores is None or scores.shape[1] != answers:
        return None
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
    return [[[int(one), per_cent(row[one])] for one in best] for row, best in zip(scores, order, strict=True)]
