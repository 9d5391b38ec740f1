"""The processor's instructions on tiles of bytes (AMX), for compiled code; a tile is 16 rows of 64 bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite.ir import Constant, Function, FunctionType, IntType, PointerType, VoidType
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
def exchange_shapes(typing: Any, shapes: Any, former: Any) -> Any:
    """Set the tiles' shapes from 64 bytes at one address, and put those that were set to another.

    Other code of this thread may rely on the former shapes, so a kernel puts them back at its end.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shapes, former = (builder.inttoptr(address, _MEMORY) for address in arguments)
        _instruct(builder, "sttilecfg", former)
        _instruct(builder, "ldtilecfg", shapes)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


@intrinsic
def clear_sums(typing: Any) -> Any:
    """Set tiles 0 to 3, which hold a piece's sums, to 0."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for tile in range(4):
            _instruct(builder, "tilezero", tile)
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def add_products(typing: Any, left: Any, left_stride: Any, right: Any, right_stride: Any) -> Any:
    """Add to a piece's sums the products of 32 rows of 64 bytes at ``left`` and 32 columns of 64 bytes at ``right``.

    Columns lie one after another in memory, in pieces of four bytes that follow each other in the column. Strides are
    in bytes.
    """
    return types.void(*[types.intp] * 4), _products_of(rows=2)


@intrinsic
def add_upper_products(typing: Any, left: Any, left_stride: Any, right: Any, right_stride: Any) -> Any:
    """As :func:`add_products`, of 16 rows."""
    return types.void(*[types.intp] * 4), _products_of(rows=1)


@intrinsic
def keep_sums(typing: Any, address: Any, stride: Any) -> Any:
    """Write a piece's sums ``[32, 32]`` to memory whose rows are ``stride`` bytes apart."""
    return types.void(types.intp, types.intp), _sums_of(rows=2)


@intrinsic
def keep_upper_sums(typing: Any, address: Any, stride: Any) -> Any:
    """As :func:`keep_sums`, of 16 rows."""
    return types.void(types.intp, types.intp), _sums_of(rows=1)


def _products_of(*, rows: int) -> Callable[..., Any]:
    """Code that multiplies ``rows`` rows of tiles: tiles 4 and 5 by 6 and 7, added to tiles 0 to 3."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, left_stride, right, right_stride = arguments
        for row in range(rows):
            address = builder.add(left, builder.mul(left_stride, Constant(_WORD, row * TILE_ROWS)))
            _instruct(builder, "tileloadd64", 4 + row, builder.inttoptr(address, _MEMORY), left_stride)
        for column in range(2):
            address = builder.add(right, Constant(_WORD, column * TILE_BYTES))
            _instruct(builder, "tileloadd64", 6 + column, builder.inttoptr(address, _MEMORY), right_stride)
        for row in range(rows):
            for column in range(2):
                _instruct(builder, "tdpbssd", 2 * row + column, 4 + row, 6 + column)
        return context.get_dummy_value()

    return build


def _sums_of(*, rows: int) -> Callable[..., Any]:
    """Code that stores ``rows`` rows of tiles of sums."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, stride = arguments
        for tile in range(2 * rows):
            down = builder.mul(stride, Constant(_WORD, tile // 2 * TILE_ROWS))
            corner = builder.add(builder.add(address, down), Constant(_WORD, tile % 2 * TILE_BYTES))
            _instruct(builder, "tilestored64", tile, builder.inttoptr(corner, _MEMORY), stride)
        return context.get_dummy_value()

    return build
