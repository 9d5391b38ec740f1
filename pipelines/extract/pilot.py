"""Running a codec's pilot: before a store is begun it sees frames of training clips, and computes the static arrays.

Frames of different clips share a forward pass, which has the shape that it always has: the backbones see ten times
fewer frames than if whole clips went through them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.pipelines.extract.failures import EveryClipFailsError
from mettle_cache.pipelines.extract.passes import pass_trouble
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.in_order import in_order
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.signals import InterruptedRunError
from mettle_cache.pipelines.static_arrays import ArraysWanted, static_arrays
from mettle_cache.samples import training_clips
from mettle_cache.store.format.codecs import Pilot, StaticArrays

RESUME = "run the same command again: the pilot begins anew, and gives the same arrays"
FrameTokens = Mapping[str, Tensor]


@dataclass(frozen=True)
class Frame:
    """One segment of a clip, from 0."""

    clip: PreparedClip
    segment: int


@contextmanager
def with_static_arrays(
    extractor: Extractor, config: ExtractConfig, out: Path, progress: Progress
) -> Iterator[Extractor]:
    """The extractor with its codec's static arrays; the store at ``out`` must be made before the context ends.

    They are the store's own, those of the store that the configuration names, or those of a new pilot, which other
    processes wait for (:func:`mettle_cache.pipelines.static_arrays.static_arrays`).

    Raises
    ------
    InterruptedRunError
        SIGINT or SIGTERM before the store was made.
    """
    wanted = ArraysWanted(
        codec=extractor.codec,
        layers=extractor.layers,
        segments=extractor.dataset.segments,
        out=out,
        source=config.codec_choice.store,
    )
    try:
        with static_arrays(wanted, lambda pilot: run_pilot(pilot, extractor, progress), progress) as static:
            yield replace(extractor, static=static)
    except KeyboardInterrupt:
        raise InterruptedRunError(f"stopped before {out} was begun", hint=RESUME) from None


def run_pilot(pilot: Pilot, extractor: Extractor, progress: Progress) -> StaticArrays:
    """Show the pilot its frames in its order; clips that cannot be extracted are passed over, and others come instead.

    Raises
    ------
    EveryClipFailsError
        None of the clips could be extracted.
    MachineError, DatasetError
        The machine or its device is at an end, or the data set's folder is gone.
    """
    dataset = extractor.dataset
    clips = training_clips([clip.id for clip in dataset.clips], dataset.samples)
    chosen = pilot.choose([dataset.clips[index].id for index in clips], dataset.segments)
    failures: list[MediaError] = []
    shown = 0
    progress.start(pilot.wanted, "frames", f"look at frames for codec {extractor.codec.name}")
    try:
        with reproducible_passes(extractor.device), closing(_frames(extractor, clips, chosen, failures)) as frames:
            # in rounds: which frames share a pass must not depend on when it shows that one of them fails
            while shown < pilot.wanted:
                batches = _batches(frames, pilot.wanted - shown, extractor.frames_a_pass)
                results = _show(pilot, extractor, batches, progress)
                failures += [error for error in results if error is not None]
                shown += results.count(None)
                if not results:
                    break
    finally:
        progress.finish()
    if failures and not shown:
        raise EveryClipFailsError(
            f"none of the clips that codec {extractor.codec.name} looks at first could be extracted; "
            f"the first one: {extractor.describe(failures[0])}",
            hint=failures[0].hint,
        )
    return pilot.finish()


def _frames(
    extractor: Extractor,
    clips: Sequence[int],
    chosen: Iterable[tuple[int, tuple[int, ...]]],
    failures: list[MediaError],
) -> Generator[list[Frame], None, None]:
    """The frames that were chosen of each clip that can be decoded, read ahead in threads."""

    def look(choice: tuple[int, tuple[int, ...]]) -> list[Frame] | MediaError:
        try:
            clip = extractor.prepare(clips[choice[0]])
        except MediaError as error:
            return error
        # a copy, so that the rest of the clip is not kept until the pass
        inputs = tuple(x[list(choice[1])] for x in clip.inputs)
        return [Frame(replace(clip, inputs=inputs), place) for place in range(len(choice[1]))]

    with closing(in_order(look, chosen, extractor.decoders)) as looks:
        for found in looks:
            if isinstance(found, MediaError):
                failures.append(found)
            else:
                yield found


def _batches(frames: Iterator[list[Frame]], count: int, size: int) -> Iterator[list[Frame]]:
    """The next clips' frames, ``count`` or a few more, by the pass that they share."""
    batch: list[Frame] = []
    while count > 0 and (more := next(frames, None)) is not None:
        count -= len(more)
        batch += more
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


def _show(
    pilot: Pilot, extractor: Extractor, batches: Iterator[list[Frame]], progress: Progress
) -> list[MediaError | None]:
    """Show the pilot each frame's tokens, in order; for each frame None, or why it has none."""
    ended: list[MediaError | None] = []

    def compute(frames: Sequence[Frame]) -> list[FrameTokens | MediaError]:
        return _pass(extractor, dict(enumerate(frames)))

    with closing(in_order(compute, batches, extractor.passes_at_once)) as passes:
        for tokens in chain.from_iterable(passes):
            if isinstance(tokens, MediaError):
                ended.append(tokens)
                continue
            pilot.add({name: x.unsqueeze(0) for name, x in tokens.items()})
            ended.append(None)
            progress.advance()
    return ended


def _pass(extractor: Extractor, frames: Mapping[int, Frame]) -> list[FrameTokens | MediaError]:
    """The tokens of frames by their places in the pass, or why there are none.

    Raises
    ------
    MachineError
        The device failed, or memory ran out.
    """
    try:
        inputs = {place: [x[frame.segment] for x in frame.clip.inputs] for place, frame in frames.items()}
        return list(extractor.frame_tokens(inputs))
    except Exception as error:  # noqa: BLE001 - whatever a backbone raises is its clip's failure
        trouble = pass_trouble(extractor, [frame.clip for frame in frames.values()], error)
    if len(frames) == 1:
        return [trouble]
    # one of them spoils it for all; each alone gives the bytes that it gives among the others
    return [result for place, frame in frames.items() for result in _pass(extractor, {place: frame})]
