"""The processor's instructions on tiles of bytes (AMX), for compiled code; a tile is 16 rows of 64 bytes.

Numba compiles a cached function anew when its own file changes, not when one that it calls does: a change here needs
one in integer_kernels.py.
"""

from __future__ import annotations

from typing import Any

from llvmlite.ir import Constant, Function, FunctionType, IntType, PointerType, VectorType, VoidType
from numba.core import types
from numba.extending import intrinsic

TILE_ROWS, TILE_BYTES = 16, 64
_BYTE, _WORD, _MEMORY = IntType(8), IntType(64), PointerType(IntType(8))


def _instruct(builder: Any, name: str, *arguments: Any) -> None:
    """One of the processor's tile instructions; whole numbers among the arguments name tiles."""
    operands = [Constant(_BYTE, value) if isinstance(value, int) else value for value in arguments]
    kind = FunctionType(VoidType(), [operand.type for operand in operands])
    name = f"llvm.x86.{name}"
    builder.call(builder.module.globals.get(name) or Function(builder.module, kind, name), operands)


@intrinsic
def exchange_shapes(typing: Any, wanted: Any, former: Any) -> Any:
    """Set the tiles' shapes from 64 bytes at one address, and put those that were set to another.

    Who shares the thread believes that its own are still there.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wanted, former = (builder.inttoptr(address, _MEMORY) for address in arguments)
        _instruct(builder, "sttilecfg", former)
        _instruct(builder, "ldtilecfg", wanted)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Tiles 0 to 3, a block's sums, become 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            _instruct(builder, "tilezero", tile)
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def add_products(typing: Any, left: Any, left_stride: Any, right: Any, right_stride: Any) -> Any:
    """Add to a block's sums the products of 32 rows of 64 bytes at ``left`` and 32 columns of 64 bytes at ``right``.

    Four bytes that follow each other in a column do so in memory, one column after the other; strides are in bytes.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, left_stride, right, right_stride = arguments
        below = builder.add(left, builder.mul(left_stride, Constant(_WORD, TILE_ROWS)))
        beside = builder.add(right, Constant(_WORD, TILE_BYTES))
        for tile, address, stride in (
            (4, left, left_stride),
            (5, below, left_stride),
            (6, right, right_stride),
            (7, beside, right_stride),
        ):
            _instruct(builder, "tileloadd64", tile, builder.inttoptr(address, _MEMORY), stride)
        for sums, row, column in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
            _instruct(builder, "tdpbssd", sums, row, column)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), build


@intrinsic
def keep_sums(typing: Any, address: Any, stride: Any) -> Any:
    """A block's sums ``[32, 32]`` into memory whose rows are ``stride`` bytes apart."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, stride = arguments
        below = builder.add(address, builder.mul(stride, Constant(_WORD, TILE_ROWS)))
        for tile, corner in ((0, address), (2, below)):
            beside = builder.add(corner, Constant(_WORD, TILE_BYTES))
            _instruct(builder, "tilestored64", tile, builder.inttoptr(corner, _MEMORY), stride)
            _instruct(builder, "tilestored64", tile + 1, builder.inttoptr(beside, _MEMORY), stride)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


@intrinsic
def transpose_words(typing: Any, rows: Any, stride: Any, columns: Any, column_stride: Any) -> Any:
    """16 rows of 16 words of four bytes, at one address, as rows of their columns at another; strides are in bytes.

    Numba makes a loop over words of it, which takes three times as long.
    """
    lanes = VectorType(IntType(32), TILE_ROWS)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, target, target_stride = arguments

        def place(start: Any, step: Any, number: int) -> Any:
            address = builder.add(start, builder.mul(step, Constant(_WORD, number)))
            return builder.inttoptr(address, lanes.as_pointer())

        rows = [builder.load(place(source, stride, number), align=4) for number in range(TILE_ROWS)]
        # exchange the halves of pairs of rows: of words, of pairs of words, and so on
        for half in (1, 2, 4, 8):
            for upper in (number for number in range(TILE_ROWS) if not number & half):
                pair = rows[upper], rows[upper + half]
                even = [w + TILE_ROWS - half if w & half else w for w in range(TILE_ROWS)]
                odd = [w + TILE_ROWS if w & half else w + half for w in range(TILE_ROWS)]
                for number, order in ((upper, even), (upper + half, odd)):
                    rows[number] = builder.shuffle_vector(*pair, Constant(lanes, order))
        for number, row in enumerate(rows):
            builder.store(row, place(target, target_stride, number), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), build
