"""Running a codec's pilot: it looks at some clips before the store is begun, and computes the static arrays.

The arrays are written when the store is made, and later runs and other workers read them from there. Most codecs have
no pilot.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mettle_cache.errors import MediaError, StoreCorruptError, StoreMissingError
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.failures import EveryClipFailsError
from mettle_cache.pipelines.extract.passes import clip_tokens
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.progress import Progress, Silent
from mettle_cache.store.format.codecs import Pilot, StaticArrays
from mettle_cache.store.format.metadata import load_metadata


def with_static_arrays(extractor: Extractor, out: Path, progress: Progress | None = None) -> Extractor:
    """The extractor with its codec's static arrays: those of the store at ``out``, or those of a new pilot.

    A store whose arrays are damaged is given them anew; they must be the same, or the store's key refuses them.
    """
    pilot = extractor.codec.pilot(extractor.layers)
    if pilot is None:
        return extractor
    try:
        metadata = load_metadata(out)
        # a store in another codec or of other layers has nothing to give; its key says so in a moment
        if metadata.codec == extractor.codec and metadata.layers == extractor.layers:
            return replace(extractor, static=metadata.read_static())
    except (StoreMissingError, StoreCorruptError):
        pass
    return replace(extractor, static=_run(pilot, extractor, progress or Silent()))


def _run(pilot: Pilot, extractor: Extractor, progress: Progress) -> StaticArrays:
    """Show the pilot its frames, clip by clip; clips that cannot be extracted are passed over."""
    dataset = extractor.dataset
    chosen = pilot.choose([clip.id for clip in dataset.clips], dataset.segments)
    progress.start(pilot.wanted, "frames", f"look at frames for codec {extractor.codec.name}")
    failure: MediaError | None = None
    shown = 0
    with reproducible_passes(extractor.device):
        for index, segments in chosen:
            if shown >= pilot.wanted:
                break
            try:
                tokens = clip_tokens(extractor, extractor.prepare(index))
            except MediaError as error:
                failure = failure or error
                continue
            pilot.add({name: x[list(segments)] for name, x in tokens.items()})
            shown += len(segments)
            progress.advance(len(segments))
    progress.finish()
    if failure is not None and not shown:
        raise EveryClipFailsError(
            f"none of the clips that codec {extractor.codec.name} looks at first could be extracted; "
            f"the first one: {extractor.describe(failure)}",
            hint=failure.hint,
        )
    return pilot.finish()
