"""Which clips share a forward pass, and their tokens, computed ahead of whoever wants them.

A clip's bytes must depend on the clip alone, so its index fixes its place in a pass, as in an extraction. Batches are
in any order: a pass takes clips of the next batch, and fills the places that are left with clips of the one after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice, tee

from mettle_cache.devices import one_thread
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.pipelines.extract.passes import encode_clips
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.in_order import in_order

# batches beside the next one that passes are filled from: what is computed early is held until its turn
AHEAD = 1


@dataclass(frozen=True)
class Wanted:
    """A clip of a batch, both by number."""

    batch: int
    clip: int


@dataclass(frozen=True)
class Computed:
    """What a pass gave for a clip of a batch: its codes ``[T, N, *]`` by layer and its media's digest, or neither."""

    wanted: Wanted
    codes: Codes | MediaError
    prepared: PreparedClip | None


def form_passes(order: Iterable[Sequence[int]], places: int) -> Iterator[list[Wanted]]:
    """Clips by the pass that they share, at most ``places``, no two of them with the same place ``clip % places``.

    Every clip of every batch of ``order`` comes once. A batch's last clip comes before that of the batch after it.
    """
    window: deque[list[Wanted]] = deque()
    coming = enumerate(order)
    while True:
        for number, clips in islice(coming, 1 + AHEAD - len(window)):
            window.append([Wanted(number, clip) for clip in dict.fromkeys(clips)])
        if not window:
            return
        while window[0]:
            yield _fill_pass(window, places)
        window.popleft()


def _fill_pass(window: Iterable[list[Wanted]], places: int) -> list[Wanted]:
    """Take the clips of one pass out of the batches of the window."""
    taken: dict[int, Wanted] = {}
    for waiting in window:
        for wanted in list(waiting):
            if len(taken) == places:
                return list(taken.values())
            if wanted.clip % places not in taken:
                taken[wanted.clip % places] = wanted
                waiting.remove(wanted)
    return list(taken.values())


def compute_clips(extractor: Extractor, order: Iterable[Sequence[int]]) -> Generator[Computed, None, None]:
    """Decode and compute the clips of batches in the order of :func:`form_passes`, some passes ahead.

    A bounded number of clips is under way, whatever the length of ``order``, of which no more is taken than is needed.

    Raises
    ------
    MachineError, DatasetError
        The machine or its device is at an end, or the data set's folder is gone.
    """
    passes, again = tee(form_passes(order, extractor.clips_a_batch))
    clips = (wanted.clip for members in passes for wanted in members)

    def prepare(clip: int) -> PreparedClip | MediaError:
        try:
            # sound becomes spectra by products; of this thread alone: a head that trains meanwhile keeps its own
            with one_thread(extractor.device):
                return extractor.prepare(clip)
        except MediaError as error:
            return error

    def compute(members: Sequence[tuple[Wanted, PreparedClip | MediaError]]) -> list[Computed]:
        readable = {wanted.clip: clip for wanted, clip in members if isinstance(clip, PreparedClip)}
        with one_thread(extractor.device):
            codes = encode_clips(extractor, list(readable.values())) if readable else {}
        return [
            Computed(wanted, clip if isinstance(clip, MediaError) else codes[wanted.clip], readable.get(wanted.clip))
            for wanted, clip in members
        ]

    # that cuDNN is set already keeps one pass from setting it back under another
    alike = nullcontext() if extractor.device.type == "cpu" else reproducible_passes(extractor.device)
    with alike, closing(in_order(prepare, clips, extractor.decoders)) as prepared:
        groups = ([(wanted, next(prepared)) for wanted in members] for members in again)
        with closing(in_order(compute, groups, extractor.passes_at_once)) as computed:
            for results in computed:
                yield from results
