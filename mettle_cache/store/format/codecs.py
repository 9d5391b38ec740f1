"""The codecs by name, and the interface by which the store uses one.

A codec declares the arrays that it stores (:class:`CodecArray`); layout, writer, reader and verification follow that
declaration. Nothing here loads PyTorch: a codec loads its arithmetic when it encodes. What is written is specified in
FORMAT.md, sections 3 and 5.

Shapes: T segments, N tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mettle_cache.errors import PluginError, StoreError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.registry import CodecRow, Registry

if TYPE_CHECKING:
    from torch import Tensor

    from mettle_cache.store.format.ranges import RangeChecks
    from mettle_cache.tokens import LayerTokens, TokenFormat

DEFAULT_CODEC = "int8"
CODES = "codes"

# a layer's static arrays by name, by layer name
StaticArrays = Mapping[str, Mapping[str, "Tensor"]]
NO_STATIC: StaticArrays = {}


@dataclass(frozen=True, kw_only=True)
class CodecArray:
    """One of the arrays that a codec stores for each stage.

    Attributes
    ----------
    part
        ``codes``, or the array's name among the parts (one for each frame) or static arrays of
        :class:`~mettle_cache.tokens.LayerTokens`.
    dtype
        zarr's name of the type: ``uint8``, ``float16``.
    axes, shape
        Of one layer: ``("segment", "token", "channel")`` and ``(T, N, D)`` for plain codes. Rows may be cells of
        tokens, channels may be packed; the first axis of all but a static array is ``segment``.
    static
        One for all clips, from :meth:`Codec.pilot`, instead of one a clip.
    """

    part: str
    dtype: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    static: bool = False


class Pilot(Protocol):
    """Looks at some frames before anything is written, and computes a codec's static arrays from them.

    The same frames in the same order must give the same bytes, because the arrays' digests are in the store's key.
    """

    @property
    def wanted(self) -> int:
        """How many frames it wants to see; fewer serve where there are not so many."""
        ...

    def choose(self, clips: Sequence[str], segments: int) -> Iterable[tuple[int, tuple[int, ...]]]:
        """Which frames to look at and in which order: the index of a clip, by its id, and segments of that clip.

        There may be more than are wanted: whoever shows them stops at :attr:`wanted`, and passes over clips that cannot
        be read.
        """
        ...

    def add(self, tokens: Mapping[str, Tensor]) -> None:
        """Frames of one clip: tokens ``[t, N, D]`` by layer name, on the device that computed them."""
        ...

    def finish(self) -> StaticArrays:
        """The static arrays of every layer, on the CPU, shaped as :attr:`CodecArray.shape` says."""
        ...


class Codec(Protocol):
    """Turns tokens into bytes; encoded tokens carry their :class:`~mettle_cache.tokens.TokenFormat`.

    ``limit`` is the largest absolute value that it takes. A codec that encodes to other bytes than it once did has a
    ``version``, an integer above 1, which is in the key of the stores that it writes; without the attribute it is 1.
    """

    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> float: ...

    def arrays(self, layers: Sequence[LayerSpec], segments: int) -> Sequence[CodecArray]:
        """What is stored of one stage, whose stored layers are ``layers``, all of the same N and D; codes first.

        Raises
        ------
        StoreError
            The codec cannot store such layers.
        """
        ...

    def format(self, layer: LayerSpec, static: Mapping[str, Tensor]) -> TokenFormat:
        """The format of the codes of ``layer``, whose static arrays are ``static``; none for most codecs."""
        ...

    def pilot(self, layers: Sequence[LayerSpec]) -> Pilot | None:
        """A new pilot for these layers; None for a codec without static arrays."""
        ...

    def encode(
        self, tokens: Mapping[str, Tensor], layers: Sequence[LayerSpec], static: StaticArrays
    ) -> dict[str, LayerTokens]:
        """Encode tokens ``[..., T, N, D]`` by layer name, on the device where they are.

        Every frame is encoded by itself, so the bytes do not depend on what else is in the batch. ``layers`` describe
        the tokens' layers.

        Raises
        ------
        StoreError
            A value that is not finite or is beyond ``limit``; names the layer.
        """
        ...


@runtime_checkable
class TakesChecks(Codec, Protocol):
    """A codec whose ``encode`` can leave the check of the tokens' range to its caller, who makes one of many layers.

    On a device each check makes the host wait. ``takes_checks`` tells such a codec from others; they check at once.
    """

    @property
    def takes_checks(self) -> bool: ...

    def encode(
        self,
        tokens: Mapping[str, Tensor],
        layers: Sequence[LayerSpec],
        static: StaticArrays,
        checks: RangeChecks | None = None,
    ) -> dict[str, LayerTokens]:
        """As :meth:`Codec.encode`; with ``checks`` ranges are noted there, and no number is read from the device."""
        ...


CODECS = Registry(
    "codec",
    "mettle_cache.codecs",
    CodecRow,
    [
        CodecRow("float16", "mettle_cache.store.format.quantisers:FLOAT16"),
        CodecRow("int8", "mettle_cache.store.format.quantisers:INT8_CODEC"),
        CodecRow("int4", "mettle_cache.store.format.quantisers:INT4_CODEC"),
        CodecRow("klt2", "mettle_cache.store.format.klt:KLT2"),
        CodecRow("klt1.5", "mettle_cache.store.format.klt:KLT15"),
        CodecRow("klt1.32", "mettle_cache.store.format.klt:KLT132"),
        CodecRow("klt1.25", "mettle_cache.store.format.klt:KLT125"),
        CodecRow("klt0", "mettle_cache.store.format.klt:KLT0"),
    ],
)


def codec_version(codec: Codec) -> int:
    """Which of the encoders that have had this name it is."""
    version: int = getattr(codec, "version", 1)
    return version


def get_codec(name: str) -> Codec:
    """The codec of that name.

    Raises
    ------
    UsageError
        There is none.
    PluginError
        Another package registered it, and it cannot be loaded or is not what it is registered as.
    """
    codec: Codec = CODECS.load(name)
    if getattr(codec, "name", None) != name:
        raise PluginError(f"the codec '{name}' stands for {CODECS.row(name).target}, which is no codec of that name")
    return codec


def encode_layers(
    tokens: Mapping[str, Tensor],
    codec: Codec,
    layers: Sequence[LayerSpec] = (),
    static: StaticArrays = NO_STATIC,
    *,
    checks: RangeChecks | None = None,
) -> dict[str, LayerTokens]:
    """Encode ``{layer name: [..., T, N, D]}``; an error names the layer.

    ``layers`` and ``static`` are for codecs that look at them. What is noted in ``checks`` is for the caller to judge
    before the codes are used; a codec that does not take checks refuses at once.

    Raises
    ------
    UsageError
        The codec needs static arrays, and those of a layer are not given.
    StoreError
        As :meth:`Codec.encode`; or the codec gave other layers than it got.
    """
    members = [layer for layer in layers if layer.name in tokens]
    lacking = sorted(tokens.keys() - static.keys())
    if lacking and codec.pilot(members) is not None:
        raise UsageError(f"codec {codec.name} needs the static arrays of its pilot for {', '.join(lacking[:5])}")
    if checks is not None and isinstance(codec, TakesChecks) and codec.takes_checks:
        encoded = codec.encode(tokens, members, static, checks)
    else:
        encoded = codec.encode(tokens, members, static)
    if encoded.keys() != tokens.keys():
        raise StoreError(f"codec {codec.name} encoded {sorted(encoded)} when it was given {sorted(tokens)}")
    return encoded
