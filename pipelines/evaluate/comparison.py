"""Comparing a result with the paper: the published row beside it, and every difference between the two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mettle_cache.datasets import dataset_info
from mettle_cache.errors import PluginError, UsageError
from mettle_cache.pipelines.report.store_facts import StoreFacts, find_published, store_facts
from mettle_cache.pipelines.train.recipe import Recipe, load_recipe, recipe_differences
from mettle_cache.pipelines.train.sample_loader import Split, read_split
from mettle_cache.preprocessing import SHARED
from mettle_cache.tasks.protocol import PublishedRow, Task

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


# codecs whose tokens changed at most a fifth of a percent of a head's predictions (docs/codecs.md); others have to show
# what they cost
NEARLY_EXACT = ("float16", "int8")


@dataclass(frozen=True)
class Comparison:
    """``paper`` is the row of the same data set and backbones, or else the data set's nearest; None where it has none.

    ``differs`` are sentences on what keeps the two scores apart; a result is comparable where there are none. ``notes``
    say what a reader has to know of a comparable one too.
    """

    paper: PublishedRow | None
    differs: list[str]
    notes: list[str]

    def paper_json(self) -> dict[str, object] | None:
        if self.paper is None:
            return None
        row = asdict(self.paper)
        return {**row, **{name: list(value) for name, value in row.items() if isinstance(value, tuple)}}


def compare_with_paper(
    task: Task, recipe: Recipe, store: TokenSource, split: Split, *, selected_on: str, ended_early: str | None = None
) -> Comparison:
    """Find the row and list the differences; random weights, other data and selection on test among them.

    ``ended_early`` says why training stopped before its last epoch, None where it did not.
    """
    facts = store_facts(store)
    row = _nearest_row(task.published, facts)
    own = [f"weights: the {modality} backbone's are random, not pretrained" for modality in facts.random]
    own += _left_out(store, dict.fromkeys(("train", *({selected_on} - {"last"}), split.name)))
    if ended_early is not None:
        own.append(f"protocol: training ended before its last epoch: {ended_early}")
    if row is None:
        return Comparison(None, [f"data: nothing is published of the data set '{store.dataset}'", *own], [])
    tokens = f"tokens: stored as {store.codec}, where the paper feeds the backbones' floats to the head"
    exact = store.codec in NEARLY_EXACT
    protocol, remarks = _protocol(row, split.name, selected_on)
    differs = [
        *_backbone_differences(row, facts),
        *own,
        *([] if exact else [tokens]),
        *_data_differences(row, split),
        *protocol,
        *(f"recipe: {line}" for line in recipe_differences(recipe, load_recipe(row.setting))),
    ]
    return Comparison(row, differs, [*([tokens] if exact else []), *_sound(facts), *remarks])


def _nearest_row(rows: Sequence[PublishedRow], facts: StoreFacts) -> PublishedRow | None:
    """The data set's row that shares most with the store: backbones in one mode first, then the visual one."""

    def likeness(row: PublishedRow) -> tuple[bool, bool, bool]:
        visual, audio = row.architectures
        return ((audio == SHARED) == (facts.audio == SHARED), visual == facts.visual, audio == facts.audio)

    # max gives the first of several that are alike, which is the table's main one
    return max((row for row in rows if row.dataset == facts.dataset), key=likeness, default=None)


def _backbone_differences(row: PublishedRow, facts: StoreFacts) -> list[str]:
    if find_published((row,), facts):
        return []
    ours = f"{facts.visual or 'unknown'} + {facts.audio or 'unknown'}"
    return [f"backbones: {ours} instead of {' + '.join(row.architectures)}"]


def _sound(facts: StoreFacts) -> list[str]:
    if facts.audio != SHARED or facts.file_sound:
        return []
    try:
        published = dataset_info(facts.dataset).preprocessing
    except (UsageError, PluginError):
        return []  # its package need not be here to evaluate what a store holds
    if not published.file_sound:
        return []
    return [
        "sound: the mean of each file's channels at 16 kHz, where the published code hears the first channel at the "
        "file's own rate; the same for mono files of 16 kHz"
    ]


def _data_differences(row: PublishedRow, split: Split) -> list[str]:
    count = len(split.rows) + len(split.dropped)
    if split.name != "test" or count == row.test_samples:
        return []
    return [f"data: {count} test samples instead of {row.test_samples}"]


def _left_out(store: TokenSource, splits: Iterable[str]) -> list[str]:
    dropped = {name: len(read_split(store, name).dropped) for name in splits}
    return [
        f"data: {name} samples left out because their clips have no tokens: {count}"
        for name, count in dropped.items()
        if count
    ]


def _protocol(row: PublishedRow, split: str, selected_on: str) -> tuple[list[str], list[str]]:
    """What differs from the published protocol, and what has to be known of it."""
    differs = [] if split == "test" else [f"protocol: scored on {split} instead of test"]
    on_test = "protocol: the epoch was selected on test, as the paper's peers {}; the score is optimistic"
    if selected_on == row.selected_on:
        return differs, [on_test.format("do")] if selected_on == "test" else []
    if selected_on == "test":
        return [*differs, on_test.format("do not")], []
    what = f"the epoch was selected on {selected_on}, where the paper's peers select on {row.selected_on}"
    return [*differs, f"protocol: {what}"], []
