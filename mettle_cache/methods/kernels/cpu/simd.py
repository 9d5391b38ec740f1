"""Sixteen numbers at a time, for compiled code, where Numba makes eight at a time or worse of a loop.

All memory is given by address. Lanes behind a row's end are read and written as well: rows go on to whole lanes.
"""

from __future__ import annotations

from typing import Any

from llvmlite.ir import Constant, FloatType, Function, FunctionType, IntType, PointerType, VectorType, VoidType
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
_BYTE, _INT, _WORD, _FLOAT = IntType(8), IntType(32), IntType(64), FloatType()
_BYTES, _INTS, _FLOATS = (VectorType(kind, LANES) for kind in (_BYTE, _INT, _FLOAT))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _place(builder: Any, start: Any, step: Any, number: int) -> Any:
    return builder.add(start, builder.mul(step, Constant(_WORD, number)))


def _call(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """One of LLVM's functions."""
    kind = FunctionType(result, [operand.type for operand in operands])
    return builder.call(builder.module.globals.get(name) or Function(builder.module, kind, name), operands)


def _fma(builder: Any, *operands: Any) -> Any:
    return _call(builder, "llvm.fma.v16f32", _FLOATS, *operands)


def _everywhere(builder: Any, value: Any) -> Any:
    single = builder.insert_element(Constant(_FLOATS, None), value, Constant(_INT, 0))
    return builder.shuffle_vector(single, single, Constant(_INTS, [0] * LANES))


@intrinsic
def fetch_ahead(typing: Any, address: Any) -> Any:
    """Prefetch a cache line that will be needed soon into the second cache, without waiting for it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.inttoptr(arguments[0], PointerType(_BYTE))
        to_read, second_cache, data = (Constant(_INT, value) for value in (0, 2, 1))
        _call(builder, "llvm.prefetch.p0", VoidType(), address, to_read, second_cache, data)
        return context.get_dummy_value()

    return types.void(types.intp), build


@intrinsic
def transpose_words(typing: Any, rows: Any, stride: Any, columns: Any, column_stride: Any) -> Any:
    """16 rows of 16 words of four bytes as rows of their columns; strides are in bytes."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, target, target_stride = arguments
        rows = [_load(builder, _place(builder, source, stride, number), _INTS) for number in range(LANES)]
        # exchange the halves of pairs of rows: of words, of pairs of words, and so on
        for half in (1, 2, 4, 8):
            for upper in (number for number in range(LANES) if not number & half):
                pair = rows[upper], rows[upper + half]
                even = [w + LANES - half if w & half else w for w in range(LANES)]
                odd = [w + LANES if w & half else w + half for w in range(LANES)]
                for number, order in ((upper, even), (upper + half, odd)):
                    rows[number] = builder.shuffle_vector(*pair, Constant(_INTS, order))
        for number, row in enumerate(rows):
            _store(builder, row, _place(builder, target, target_stride, number))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), build


@intrinsic
def interleave_bytes(typing: Any, rows: Any, stride: Any, words: Any) -> Any:
    """Four rows of 32 bytes as 32 words, each of one byte of every row; the stride is in bytes."""

    def zip_halves(builder: Any, pair: Any, size: int) -> list[Any]:
        """What the processor does in one go: of each 16 bytes of two rows, first and second halves, piece by piece."""
        orders = (
            [
                32 * row + 16 * group + 8 * half + piece + byte
                for group in (0, 1)
                for piece in range(0, 8, size)
                for row in (0, 1)
                for byte in range(size)
            ]
            for half in (0, 1)
        )
        return [builder.shuffle_vector(*pair, Constant(VectorType(_INT, 32), order)) for order in orders]

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, target = arguments
        rows = [_load(builder, _place(builder, source, stride, n), VectorType(_BYTE, 32)) for n in range(4)]
        upper, lower = zip_halves(builder, rows[:2], 1), zip_halves(builder, rows[2:], 1)
        quarters = [half for pair in zip(upper, lower, strict=True) for half in zip_halves(builder, pair, 2)]
        for group in (0, 1):
            of_group = Constant(_INTS, list(range(LANES * group, LANES * (group + 1))))
            for number, words in enumerate(quarters):
                place = builder.add(target, Constant(_WORD, 64 * group + 16 * number))
                _store(builder, builder.shuffle_vector(words, words, of_group), place)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), build


@intrinsic
def join_bytes(
    typing: Any,
    parts: Any,
    stride: Any,
    unit: Any,
    scale: Any,
    shift: Any,
    offset: Any,
    less: Any,
    adding: Any,
    out: Any,
) -> Any:
    """``unit * whole * scale + shift * offset - less``, added to ``out`` or put there.

    The whole number is ``65536 high + 256 middle + low``; these three are ``stride`` bytes apart at ``parts``.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts, stride, unit, scale, shift, offset, less, adding, out = arguments
        high, middle, low = (
            builder.sitofp(_load(builder, _place(builder, parts, stride, number), _INTS), _FLOATS)
            for number in range(3)
        )
        whole = _fma(builder, middle, Constant(_FLOATS, [256.0] * LANES), low)
        whole = _fma(builder, high, Constant(_FLOATS, [65536.0] * LANES), whole)
        value = builder.fmul(builder.fmul(_everywhere(builder, unit), whole), _load(builder, scale, _FLOATS))
        value = _fma(builder, _everywhere(builder, shift), _load(builder, offset, _FLOATS), value)
        value = builder.fsub(value, _everywhere(builder, less))
        before = builder.select(adding, _load(builder, out, _FLOATS), Constant(_FLOATS, None))
        _store(builder, builder.fadd(before, value), out)
        return context.get_dummy_value()

    floats, place = types.float32, types.intp
    return types.void(place, place, floats, place, floats, place, floats, types.boolean, place), build


@intrinsic
def spread_bits(typing: Any, source: Any, count: Any, shift: Any, mask: Any, less: Any, target: Any) -> Any:
    """``((byte >> shift) & mask) - less`` of ``count`` bytes, as bytes; up to 31 more are read and written as well."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, count, shift, mask, less, target = arguments
        bytes_ = VectorType(_BYTE, 32)

        def everywhere(value: Any) -> Any:
            single = builder.insert_element(Constant(bytes_, None), value, Constant(_INT, 0))
            return builder.shuffle_vector(single, single, Constant(VectorType(_INT, 32), [0] * 32))

        shifts, masks, lessers = everywhere(shift), everywhere(mask), everywhere(less)
        with cgutils.for_range_slice(builder, Constant(_WORD, 0), count, Constant(_WORD, 32)) as (start, _):
            value = builder.lshr(_load(builder, builder.add(source, start), bytes_), shifts)
            value = builder.sub(builder.and_(value, masks), lessers)
            _store(builder, value, builder.add(target, start))
        return context.get_dummy_value()

    place, byte = types.intp, types.uint8
    return types.void(place, place, byte, byte, byte, place), build


def _add_up_each(builder: Any, vectors: list[Any]) -> Any:
    """The sum of each of eight vectors, in their order: halves of two vectors are added, then halves of the results.

    Fewer instructions than one sum after the other.
    """
    half = LANES // 2
    while half:
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        first, second = (
            [start + n for start in range(skip, 2 * LANES, 2 * half) for n in range(half)] for skip in (0, half)
        )
        vectors = [
            builder.fadd(*(builder.shuffle_vector(*pair, Constant(_INTS, order)) for order in (first, second)))
            for pair in pairs
        ]
        half //= 2
    return vectors[0]


@intrinsic
def add_moments(
    typing: Any, tokens: Any, stride: Any, width: Any, scale: Any, offset: Any, sums: Any, squares: Any
) -> Any:
    """Of four rows of bytes, as ``x = byte * scale + offset``: four sums of x to ``sums``, of x² to ``squares``."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tokens, stride, width, scale, offset, sums, squares = arguments
        totals = [cgutils.alloca_once_value(builder, Constant(_FLOATS, None)) for _ in range(8)]
        with cgutils.for_range_slice(builder, Constant(_WORD, 0), width, Constant(_WORD, LANES)) as (start, _):
            factor, summand = (
                _load(builder, builder.add(row, builder.mul(start, Constant(_WORD, 4))), _FLOATS)
                for row in (scale, offset)
            )
            for number in range(4):
                code = _load(builder, builder.add(_place(builder, tokens, stride, number), start), _BYTES)
                x = _fma(builder, builder.sitofp(builder.sext(code, _INTS), _FLOATS), factor, summand)
                plain, squared = totals[number], totals[4 + number]
                builder.store(builder.fadd(builder.load(plain), x), plain)
                builder.store(_fma(builder, x, x, builder.load(squared)), squared)
        eight = _add_up_each(builder, [builder.load(total) for total in totals])
        for start, place in ((0, sums), (4, squares)):
            four = Constant(VectorType(_INT, 4), list(range(start, start + 4)))
            _store(builder, builder.shuffle_vector(eight, eight, four), place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), build
