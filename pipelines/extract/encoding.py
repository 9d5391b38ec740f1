"""A group's tokens to codes, on the device that computed them; the codes leave it by one copy a clip.

On a CPU each layer's range is judged before its codes are made. On a device a judgement, like any number that is read
from it, would make the host wait for all the device has to do. There a clip's ranges travel with its codes and are
judged on arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import Codec, StaticArrays, encode_layers
from mettle_cache.store.format.ranges import RangeChecks
from mettle_cache.store.reading.device_copy import HostTensors
from mettle_cache.tokens import LayerTokens

Codes = dict[str, LayerTokens]


def encode_group(
    tokens: Iterable[tuple[int, Mapping[str, Tensor]]],
    codec: Codec,
    layers: Sequence[LayerSpec],
    static: StaticArrays,
    *,
    checks_later: bool,
    codes_on: str = "cpu",
) -> dict[int, Codes]:
    """Codes ``[T, N, *]`` by layer name, by clip, on the device ``codes_on``.

    ``tokens`` gives a clip's index with its tokens ``[T, N, D]`` by layer name, once for each backbone. With
    ``checks_later`` a group is refused when all of it is encoded. Static arrays stay where they are: they belong to all
    clips, and whoever wants them elsewhere moves them once.

    Raises
    ------
    TokensError
        A value that is not finite or is beyond the codec's limit; names the layer that comes first.
    """
    codes: dict[int, Codes] = {}
    checks: dict[int, RangeChecks] = {}
    for clip, of_clip in tokens:
        noted = checks.setdefault(clip, RangeChecks()) if checks_later else None
        codes.setdefault(clip, {}).update(encode_layers(of_clip, codec, layers, static, checks=noted))
    if checks_later:
        codes = _judged(codes, checks, to_host=codes_on == "cpu")
    return {
        clip: {name: layer.map(lambda part: part.to(codes_on)) for name, layer in of_clip.items()}
        for clip, of_clip in codes.items()
    }


def _judged(codes: Mapping[int, Codes], checks: Mapping[int, RangeChecks], *, to_host: bool) -> dict[int, Codes]:
    """The codes, in host memory or where they are, when their ranges were judged; raises as :func:`encode_group`."""
    copies: dict[int, HostTensors] = {}
    # every copy is under way before the first is waited for
    for clip, of_clip in codes.items():
        tensors = _tensors(of_clip)
        copies[clip] = HostTensors([checks[clip].extremes(tensors[0].device), *(tensors if to_host else ())])
    judged: dict[int, Codes] = {}
    for clip, of_clip in codes.items():
        extremes, *tensors = copies[clip].wait()
        checks[clip].judge(extremes)
        judged[clip] = _of_tensors(of_clip, tensors) if to_host else of_clip
    return judged


def _tensors(codes: Codes) -> list[Tensor]:
    return [tensor for layer in codes.values() for tensor in (layer.codes, *layer.parts.values())]


def _of_tensors(codes: Codes, tensors: Iterable[Tensor]) -> Codes:
    """The layers of ``codes`` with these tensors for theirs, in the order of :func:`_tensors`."""
    coming = iter(tensors)
    return {
        name: replace(layer, codes=next(coming), parts={part: next(coming) for part in layer.parts})
        for name, layer in codes.items()
    }
