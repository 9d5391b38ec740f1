"""What the kernels are compiled for, and the numbers and addresses that they share.

Shapes: F frames, R rows of codes (S: with room for more), P places of a row, so that a layer has N = P R tokens; M
components of a row, V vectors, W rows of weights, Q queries, C contexts, K mixing rows. A row of affine codes is a
token and a component a channel.
"""

from __future__ import annotations

from typing import NamedTuple

import triton.language as tl

BYTES: tl.constexpr = tl.constexpr(0)
HALVES: tl.constexpr = tl.constexpr(1)
# rows of codes that are taken at a time
TOKENS: tl.constexpr = tl.constexpr(64)
# components that are taken at a time
WIDE: tl.constexpr = tl.constexpr(64)
# either where several numbers of each are held at a time
NARROW: tl.constexpr = tl.constexpr(32)

# numbers kept of each row. A vector's: its unit, its product with the zeros, its sum;
UNIT: tl.constexpr = tl.constexpr(0)
SHIFT: tl.constexpr = tl.constexpr(1)
TOTAL: tl.constexpr = tl.constexpr(2)
# a query's: the largest logit, one over the softmax's sum, the mean of the weights' gradients;
HIGHEST: tl.constexpr = tl.constexpr(3)
SHARE: tl.constexpr = tl.constexpr(4)
LEVEL: tl.constexpr = tl.constexpr(5)
# a row of weights': its unit, its sum, and what it gives the ones
WEIGHT_UNIT: tl.constexpr = tl.constexpr(6)
WEIGHT: tl.constexpr = tl.constexpr(7)
ONES: tl.constexpr = tl.constexpr(8)
INFO: tl.constexpr = tl.constexpr(9)


class Form(NamedTuple):
    """What differs in the code of a kernel; every field is a ``tl.constexpr``.

    Attributes
    ----------
    kind
        The parts of a factor: ``BYTES`` or ``HALVES`` (products.py).
    bits
        Of a code; of no meaning for ``klt``, whose planes have 8, 4, 2 and 1.
    scaled
        Whether codes are scaled, or are the tokens.
    norm
        Attended are normalised tokens.
    klt
        Codes are components, sigma and mu are the tokens' own, and sums are not carried back to channels.
    shared
        All frames have the same queries.
    rows
        Of a tile: 16 or 32.
    many
        There are more rows than a tile has.
    places
        P.
    """

    kind: tl.constexpr
    bits: tl.constexpr
    scaled: tl.constexpr
    norm: tl.constexpr
    klt: tl.constexpr
    shared: tl.constexpr
    rows: tl.constexpr
    many: tl.constexpr
    places: tl.constexpr


class Sizes(NamedTuple):
    """Q, C, K, R, S, M; bytes (or floats) of a row of codes, and of each of its planes.

    ``origin`` is 0, which the compiler does not know: all that it could compute before the first frame it would keep in
    registers until the last.
    """

    origin: tl.tensor
    queries: tl.tensor
    contexts: tl.tensor
    mixers: tl.tensor
    rows: tl.tensor
    room: tl.tensor
    width: tl.tensor
    stride: tl.tensor
    plane8: tl.tensor
    plane4: tl.tensor
    plane2: tl.tensor
    plane1: tl.tensor


class Frame(NamedTuple):
    """Where a frame's arrays are.

    ``codes [R, stride]``, ``scale`` and ``zero [M]``, ``asked [Q P, M]``, ``d_context [C P, M]`` whose rows are
    ``context_step`` apart, ``d_mixed [K P, M]``, ``mixing [K, P S]``, ``sigma`` and ``mu [P S]``, the vectors' ``sides
    [V, 3]``; and ``middle``, which is taken from every offset.
    """

    codes: tl.tensor
    scale: tl.tensor
    zero: tl.tensor
    asked: tl.tensor
    d_context: tl.tensor
    context_step: tl.tensor
    d_mixed: tl.tensor
    mixing: tl.tensor
    sigma: tl.tensor
    mu: tl.tensor
    sides: tl.tensor
    middle: tl.tensor


class Scratch(NamedTuple):
    """A program's own memory.

    ``vectors`` and ``weights`` hold the parts of the factors, each so many numbers after the part before; ``scores [V,
    P S]``; ``info [INFO, length]``.
    """

    vectors: tl.tensor
    vector_step: tl.tensor
    weights: tl.tensor
    weight_step: tl.tensor
    scores: tl.tensor
    info: tl.tensor
    length: tl.tensor


class Output(NamedTuple):
    """Where a frame's results go.

    ``sums [(C + K) P, M]``, ``sides [W P, 3]``, ``d_queries [Q P, M]``, ``d_mixing [K, P S]``; gradients that all
    frames share are added to those of the program's frames ``before``.
    """

    sums: tl.tensor
    sides: tl.tensor
    d_queries: tl.tensor
    d_mixing: tl.tensor
    before: tl.tensor
