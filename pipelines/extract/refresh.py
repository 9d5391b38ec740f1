"""What the start of an extraction does about media that are not those that the store was made of: it refuses to mix
them, or, where the user asks for it, has just those clips made again.

Clips that are made again are first withdrawn: ``READY``, then their commits. From there on they are pending like any
other clip, so a run that is killed leaves a store that is unfinished, never one of both media.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mettle_cache.datasets import Dataset
from mettle_cache.errors import StoreError, StoreSourcesError
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.extract.sources import Comparison, compare_sources
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.writing.writer import StoreWriter

LISTED = 20


def without_deleted(spec: StoreSpec, path: Path) -> StoreSpec:
    """The specification of the store at ``path``, also where media that it was made of have been deleted since.

    The key holds the decode policy, with the places and kinds of files in use; when the last file of a kind is deleted,
    its rules are missing from today's. Where the others are the store's, the store's policy is taken.
    """
    try:
        theirs = load_metadata(path).record.key.extraction
    except StoreError:
        return spec  # there is none, or the writer says what is wrong with it
    if "decode" in theirs and _is_part(spec.key.get("decode"), theirs["decode"]):
        return replace(spec, key={**spec.key, "decode": theirs["decode"]})
    return spec


def _is_part(policy: object, whole: object) -> bool:
    """Whether a policy says nothing that the whole one does not say; lists of words are sets."""
    if isinstance(policy, Mapping) and isinstance(whole, Mapping):
        return all(name in whole and _is_part(value, whole[name]) for name, value in policy.items())
    if isinstance(policy, list) and isinstance(whole, list) and all(isinstance(word, str) for word in policy):
        return all(word in whole for word in policy)
    return policy == whole


def find_changed(
    writer: StoreWriter, dataset: Dataset, memory: SourceMemory, progress: Progress, *, refresh: bool
) -> tuple[dict[int, str], list[str]]:
    """Clips of the whole store whose media have changed since they were committed, and notes for the user.

    Each index comes with the digest of the media that the store was made of. The clips of every part are compared, so
    that no part is extracted from other media than the others.

    Raises
    ------
    StoreSourcesError
        There are such clips, and ``refresh`` is not set; lists them up to a screenful.
    """
    made_of = writer.made_of()
    sources = {writer.clips[index]: source for index, source in made_of.items()}
    known_here = any(memory.source_of(clip) == source for clip, source in sources.items())
    origin = None if known_here else _origin(writer, dataset, sources)
    outcome = compare_sources(sources, dataset, memory, progress)
    if outcome.changed and not refresh:
        raise _refusal(outcome, writer.path, dataset.root, origin)
    changed = {index: source for index, source in made_of.items() if writer.clips[index] in outcome.changed}
    return changed, _notes(outcome, dataset.root, origin)


def _origin(writer: StoreWriter, dataset: Dataset, sources: Mapping[str, str]) -> str | None:
    """The other root where media of the store were last seen, if any is remembered here."""
    for other in SourceMemory.others(writer.metadata.record.key_digest, dataset.root):
        if any(other.source_of(clip) == source for clip, source in sources.items()):
            return other.root
    return None


def _refusal(outcome: Comparison, store: Path, root: Path, origin: str | None) -> StoreSourcesError:
    lines = [f"{clip}: {what}" for clip, what in outcome.changed.items()]
    rest = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    compared = len(outcome.same) + len(lines)
    seen = f", which were last seen in {origin}" if origin else ""
    return StoreSourcesError(
        "\n  - ".join(
            (f"{len(lines)} of {compared} clips in {root} are not the media of {store}{seen}:", *lines[:LISTED], *rest)
        ),
        hint="add --refresh to extract just these clips again, restore their media, or give another --out",
    )


def _notes(outcome: Comparison, root: Path, origin: str | None) -> list[str]:
    notes = []
    if origin and outcome.same:
        what = "its clips that have not changed are" if outcome.changed else "by content they are"
        notes.append(f"the media of the store were last seen in {origin}; {what} the same in {root}")
    if outcome.changed:
        notes.append(f"clips that the store had of other media and that are extracted again: {len(outcome.changed)}")
    if outcome.missing:
        notes.append(
            f"clips of the store whose media are not in {root} (any more) to be compared: {len(outcome.missing)}"
        )
    return notes
