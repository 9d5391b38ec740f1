"""How far the tokens of half precision are from those of float32, by layer, measured before a store is begun.

The same weights see the same inputs twice, and what comes out is compared before the codec. Whole clips are compared,
the same ones in every run and part: they are chosen by a digest of their ids.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mettle_cache.backbones.protocol import EXACT, HasPrecisions
from mettle_cache.errors import MediaError, MettleError, UsageError
from mettle_cache.pipelines.extract.extractor import Extractor, PreparedClip
from mettle_cache.pipelines.extract.passes import pass_trouble
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.metadata import ROOT, StoreMetadata, load_metadata
from mettle_cache.store.format.spec import StoreSpec
from mettle_cache.store.precision_record import LayerError, PrecisionRecord, find_precision

# a pass of a GPU; on a CPU a few seconds of a large backbone
COMPARED_SEGMENTS, FEWEST_CLIPS = 40, 2
# clips that are tried before it is given up, for each that is wanted: media may be gone, or on another machine
TRIED = 4


def precision_record(
    extractor: Extractor, spec: StoreSpec, out: Path, left_out: Collection[str], progress: Progress
) -> PrecisionRecord | None:
    """The record of the store at ``out`` that is to be filled, or a new one; None where there is nothing to compare.

    That is so for float32, for backbones that cannot be run in it, where no clip can be read, and for a store of
    another key, which is refused. Clips ``left_out`` are not looked at.

    Raises
    ------
    UsageError
        The precision does not hold what the backbones compute.
    MachineError, DatasetError
        The machine or its device is at an end, or the data set's folder is gone.
    """
    if extractor.precision == EXACT:
        return None
    exact = tuple(one.at_precision(EXACT) for one in extractor.backbones if isinstance(one, HasPrecisions))
    if len(exact) < len(extractor.backbones):
        progress.note(
            f"the error of {extractor.precision} is not measured: not every backbone offers float32 beside it"
        )
        return None
    key = StoreMetadata.of_spec(out, spec).record.key_digest
    if os.path.lexists(out / ROOT):
        # damaged: measured anew, and written over
        with suppress(MettleError):
            if load_metadata(out).record.key_digest != key:
                return None
            if (known := find_precision(out, key)) is not None:
                return known
    return _measure(extractor, replace(extractor, backbones=exact, precision=EXACT), left_out, progress)


def chosen_clips(ids: Iterable[str], segments: int) -> tuple[list[str], int]:
    """The ids in the order in which clips are to be tried, and how many are wanted."""
    wanted = max(FEWEST_CLIPS, COMPARED_SEGMENTS // segments)
    return sorted(ids, key=lambda name: digest(f"precision {name}".encode())), wanted


def _measure(
    half: Extractor, exact: Extractor, left_out: Collection[str], progress: Progress
) -> PrecisionRecord | None:
    order, wanted = chosen_clips((clip.id for clip in half.dataset.clips), half.dataset.segments)
    places = {clip.id: index for index, clip in enumerate(half.dataset.clips)}
    candidates = [places[name] for name in order if name not in left_out][: TRIED * wanted]
    wanted = min(wanted, len(candidates))
    sums: dict[str, _Sums] = {}
    compared: list[str] = []
    progress.start(wanted, "clips", f"compare {half.precision} with {EXACT}")
    try:
        with reproducible_passes(half.device):
            for clip in islice(_readable(half, candidates), wanted):
                if _compare(half, exact, clip, sums):
                    compared.append(half.dataset.clips[clip.index].id)
                progress.advance()
    finally:
        progress.finish()
    if not compared:
        progress.note(f"the error of {half.precision} is not measured: none of {len(candidates)} clips could be read")
        return None
    layers = {layer.name: sums[layer.name].error() for layer in half.layers}
    return PrecisionRecord(precision=half.precision, clips=tuple(compared), layers=layers)


def _readable(extractor: Extractor, candidates: Iterable[int]) -> Iterator[PreparedClip]:
    for index in candidates:
        # whoever extracts the clip says what is wrong with it
        with suppress(MediaError):
            yield extractor.prepare(index)


def _compare(half: Extractor, exact: Extractor, clip: PreparedClip, sums: dict[str, _Sums]) -> bool:
    """Add one clip's differences to the sums; False where float32 gives it no tokens either.

    Raises as :func:`precision_record`.
    """
    found: dict[str, _Sums] = {}
    try:
        with torch.inference_mode():
            for number in range(len(exact.backbones)):
                ((_, reference),) = exact.tokens(number, [clip])
                if not all(bool(x.isfinite().all()) for x in reference.values()):
                    return False
                ((_, tokens),) = half.tokens(number, [clip])
                found |= {name: _Sums.of(tokens[name], x) for name, x in reference.items()}
    except UsageError as error:
        raise UsageError(f"{_where(half, clip)}: {error.message}", hint=error.hint) from error
    except Exception as error:  # noqa: BLE001 - whatever a backbone raises is its clip's failure
        pass_trouble(half, [clip], error)
        return False
    for name, one in found.items():
        if not math.isfinite(one.difference):
            raise UsageError(
                f"{_where(half, clip)}: tokens of layer {name} are not finite, in {EXACT} they are",
                hint=f"use --precision {EXACT}",
            )
        sums[name] = sums.get(name, _Sums()).plus(one)
    return True


def _where(extractor: Extractor, clip: PreparedClip) -> str:
    return f"--precision {extractor.precision}, clip {extractor.dataset.clips[clip.index].id}"


@dataclass(frozen=True)
class _Sums:
    """Sums of squares of a layer: of float32's tokens and of the difference, as they are and normalised."""

    squares: float = 0.0
    difference: float = 0.0
    normalised_squares: float = 0.0
    normalised_difference: float = 0.0

    @classmethod
    def of(cls, tokens: Tensor, reference: Tensor) -> _Sums:
        """Of tokens ``[T, N, D]`` float32."""
        normal, expected = (torch.nn.functional.layer_norm(x, x.shape[-1:]) for x in (tokens, reference))
        return cls(
            squares=_sum_of_squares(reference),
            difference=_sum_of_squares(tokens - reference),
            normalised_squares=_sum_of_squares(expected),
            normalised_difference=_sum_of_squares(normal - expected),
        )

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def error(self) -> LayerError:
        return LayerError(
            tokens=_relative(self.difference, self.squares),
            normalised=_relative(self.normalised_difference, self.normalised_squares),
        )


def _sum_of_squares(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def _relative(difference: float, squares: float) -> float:
    """To four digits; the smallest divisor is for tokens that are all zero."""
    return float(f"{math.sqrt(difference / max(squares, 1e-30)):.4g}")
