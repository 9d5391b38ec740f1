"""What to do about a store that another configuration made, by what it is that differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mettle_cache.errors import StoreCorruptError, StoreError, StoreKeyError
from mettle_cache.pipelines.extract.weights import places_of_weights
from mettle_cache.preprocessing import SHARED, SHARED_MEAN
from mettle_cache.store.format.metadata import ROOT, StoreMetadata, load_metadata
from mettle_cache.store.format.spec import StoreSpec, key_differences

DECODE, SOUND = "extraction.decode.", "extraction.backbones.audio.preprocessing.sound_files"
ANNOTATIONS = {"clips.digest", "samples.digest"}
STATIC, RECODED = "static.", "extraction.recoded"
LOST_ARRAYS = (
    "its static arrays are damaged, and a pilot gives others here and now: bring the folder static/ back from a copy, "
    "or name a store with the same arrays: --codec {codec}=STORE; else extract anew with another --out"
)
OF_RECODING = (
    "one of the two was recoded from a store in another codec, whose tokens were rounded before: extract what is "
    "lacking into that store and run mettle recode again, or give another --out"
)
OF_OTHER_RULES = (
    "its media were decoded by other rules: other kinds of files lay in --root, or it was made by another version of "
    "mettle-cache, PyAV or Pillow; it can be read, trained from and verified as it is; to extract what it lacks use "
    "what made it, else extract anew with another --out"
)


@contextmanager
def other_key_explained(store: Path, spec: StoreSpec) -> Iterator[None]:
    """Let the error for a store of another key say what can be done about the fields that differ.

    Where root metadata are lost and static arrays, too, the key cannot be made again either.
    """
    try:
        yield
    except StoreCorruptError as error:
        if spec.static_files and error.message.startswith(f"{store / ROOT} "):
            error.hint = f"{error.hint}; {LOST_ARRAYS.format(codec=spec.codec)}"
        raise
    except StoreKeyError as error:
        with suppress(StoreError):
            error.hint = _advice(load_metadata(store), StoreMetadata.of_spec(store, spec), error.hint or "")
        raise


def _advice(theirs: StoreMetadata, ours: StoreMetadata, usual: str) -> str:
    old, new = theirs.record.key, ours.record.key
    lines = key_differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
    names = {line.partition(": ")[0] for line in lines}
    rules = {name for name in names if name.startswith(DECODE)}
    if names and all(name.startswith(STATIC) for name in names):
        return _static_advice(theirs)
    advice = [OF_OTHER_RULES if rules and rules >= names - {SOUND} else usual]
    for line in lines:
        if line.startswith(SOUND) and not rules:
            audio = SHARED_MEAN if line.startswith(f"{SOUND}: (absent)") else SHARED
            advice.append(f"--audio {audio} hears sound files as the store does")
    if any(name.startswith(RECODED) for name in names):
        advice.append(OF_RECODING)
    if names & ANNOTATIONS:
        advice.append("the annotations in --root are others than those of the store")
    advice += places_of_weights(old.extraction.get("backbones"), new.extraction.get("backbones"))
    return "; ".join(advice)


def _static_advice(theirs: StoreMetadata) -> str:
    """What to do where a store is the same but for its static arrays."""
    codec = theirs.codec.name
    try:
        theirs.read_static()
    except StoreError:
        return LOST_ARRAYS.format(codec=codec)
    return f"--codec {codec} alone keeps the store's own static arrays; or give another --out"
