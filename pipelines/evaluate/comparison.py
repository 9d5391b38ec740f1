"""Comparing a result with the paper: the published row beside it, and every difference between the two."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mettle_cache.pipelines.report.store_facts import find_published, store_facts
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe, recipe_differences
from mettle_cache.pipelines.train.sample_loader import Split, read_split
from mettle_cache.tasks.protocol import PublishedRow, Task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore


@dataclass(frozen=True)
class Comparison:
    """``paper`` is the row of the same data set and backbones, or else the data set's first; ``differs`` are sentences.

    None is published for a data set of a user's own; ``differs`` then says what keeps two such results apart.
    """

    paper: PublishedRow | None
    differs: list[str]

    def paper_json(self) -> dict[str, object] | None:
        if self.paper is None:
            return None
        row = asdict(self.paper)
        return {**row, **{name: list(value) for name, value in row.items() if isinstance(value, tuple)}}


def compare_with_paper(task: Task, recipe: Recipe, store: TokenStore, split: Split, *, selected_on: str) -> Comparison:
    """Find the row and list the differences; random weights, other data and selection on test among them."""
    facts = store_facts(store)
    same = find_published(task.published, facts)
    row = same or next((row for row in task.published if row.dataset == store.dataset), None)
    random = [f"weights: the {modality} backbone's are random, not pretrained" for modality in facts.random]
    if row is None:
        return Comparison(None, [*random, *_left_out(store, split)])
    differs = []
    if same is None:
        ours = f"{facts.visual or 'unknown'} + {facts.audio or 'unknown'}"
        differs.append(f"backbones: {ours} instead of {' + '.join(row.architectures)}")
    differs += random
    differs.append(f"tokens: stored as {store.codec}, where the paper feeds the backbones' floats to the head")
    differs += _data_differences(row, store, split)
    differs += _protocol_differences(row, split.name, selected_on)
    differs += [f"recipe: {line}" for line in recipe_differences(recipe, load_recipe(row.setting))]
    return Comparison(row, differs)


def _data_differences(row: PublishedRow, store: TokenStore, split: Split) -> list[str]:
    differs = []
    count = len(split.rows) + len(split.dropped)
    if split.name == "test" and count != row.test_samples:
        differs.append(f"data: {count} test samples instead of {row.test_samples}")
    return [*differs, *_left_out(store, split)]


def _left_out(store: TokenStore, split: Split) -> list[str]:
    dropped = {part: len(read_split(store, part).dropped) for part in dict.fromkeys(("train", split.name))}
    return [
        f"data: {part} samples left out because their clips have no tokens: {count}"
        for part, count in dropped.items()
        if count
    ]


def _protocol_differences(row: PublishedRow, split: str, selected_on: str) -> list[str]:
    differs = [] if split == "test" else [f"protocol: scored on {split} instead of test"]
    theirs = f"as the paper's peers {'do' if selected_on == row.selected_on else 'do not'}"
    if selected_on == "test":
        differs.append(f"protocol: the epoch was selected on test, {theirs}; the score is optimistic")
    elif selected_on != row.selected_on:
        differs.append(
            f"protocol: the epoch was selected on {selected_on}, where the paper's peers select on {row.selected_on}"
        )
    return differs
