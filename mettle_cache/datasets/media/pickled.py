"""Where the arrays of a pickled dict lie in its file, found without unpickling anything.

``np.save`` of a dict writes a pickle, and a pickle is a program that may call whatever it names. Here nothing is
called: ``pickletools`` tells the opcodes apart, and a stack machine with the few that dicts of arrays need builds
records of its own in the place of numpy's ``_reconstruct`` and ``dtype``, under the module names of numpy 1 and 2.
Every other opcode and every other name is refused. Array data are never kept: an array is an offset into the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

MOST_OPCODES = 100_000
"""A published file has about fifteen opcodes an array, and at most a few hundred arrays."""

_MOST_SIDES = 64
_LONGEST_NAME = 4096
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = {
    **{(module, "_reconstruct"): "_reconstruct" for module in _MULTIARRAY},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}
# opcode to the bytes between it and its data
_DATA = {"BINBYTES": 5, "SHORT_BINBYTES": 2, "BINBYTES8": 9, "BINSTRING": 5, "SHORT_BINSTRING": 2}
_PLAIN = {"BININT", "BININT1", "BININT2", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


class UnsafePickleError(ValueError):
    """The pickle is damaged, or holds something other than dicts of arrays; the message says what and at which byte."""


@dataclass(frozen=True)
class Span:
    """``length`` bytes of the file, from ``offset`` on; ``text`` is what they say where they are a short string."""

    offset: int
    length: int
    text: str | None = None


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(eq=False)
class DtypeRecord:
    """``code`` as numpy writes it, such as ``f4``; ``order`` is ``<``, ``>`` or ``|``."""

    code: str
    order: str = "|"


@dataclass(eq=False)
class ArrayRecord:
    """An array: ``data`` is where its bytes lie, or the list of its items for an array of objects.

    ``fortran``: the bytes are in column order.
    """

    shape: tuple[int, ...] = ()
    dtype: DtypeRecord | None = None
    fortran: bool = False
    data: Span | list[Any] | None = None


class PickleFile(Protocol):
    """What pickletools asks of a file."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


def read_structure(file: PickleFile) -> object:
    """The value that the pickle at the file's position describes: dicts, lists, tuples, strings, numbers, records.

    Raises
    ------
    UnsafePickleError
        Anything that is not one of these; nothing of it has been executed.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if number >= MOST_OPCODES:
                raise UnsafePickleError(f"more than {MOST_OPCODES} opcodes")
            if machine.run(opcode.name, argument, int(position or 0)):
                return machine.result()
    except UnsafePickleError:
        raise
    # what pickletools raises for bytes that are no pickle, and the stack machine for operands that are not there
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise UnsafePickleError(f"a damaged pickle ({type(error).__name__}: {error})") from error
    raise UnsafePickleError("the pickle has no end")


class _Machine:
    """The part of the pickle virtual machine that builds data and calls nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: Mapping[str, Callable[[], None]] = {
            "EMPTY_DICT": lambda: self.stack.append({}),
            "EMPTY_LIST": lambda: self.stack.append([]),
            "EMPTY_TUPLE": lambda: self.stack.append(()),
            "MARK": lambda: self.stack.append(_MARK),
            "TUPLE": lambda: self.stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda: self.stack.append(tuple(self._take(1))),
            "TUPLE2": lambda: self.stack.append(tuple(self._take(2))),
            "TUPLE3": lambda: self.stack.append(tuple(self._take(3))),
            "APPEND": lambda: self._extend(self._take(1)),
            "APPENDS": lambda: self._extend(self._since_mark()),
            "SETITEM": lambda: self._update(self._take(2)),
            "SETITEMS": lambda: self._update(self._since_mark()),
            "STACK_GLOBAL": lambda: self._push_name(*self._take(2)),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "MEMOIZE": lambda: self.memo.__setitem__(len(self.memo), self.stack[-1]),
        }

    def run(self, name: str, argument: Any, position: int) -> bool:
        """One opcode; whether it was the last."""
        if name in self.actions:
            self.actions[name]()
        elif name in _PLAIN:
            if isinstance(argument, str) and len(argument) > _LONGEST_NAME:
                raise UnsafePickleError(f"a name of {len(argument)} characters at byte {position}")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _DATA:
            text = argument if isinstance(argument, str) and len(argument) <= 256 else None
            self.stack.append(Span(position + _DATA[name], len(argument), text))
        elif name == "GLOBAL":
            self._push_name(*argument.split(" ", 1))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UnsafePickleError(f"the opcode {name} at byte {position} is not one that a dict of arrays needs")
        return name == "STOP"

    def result(self) -> object:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise UnsafePickleError(f"a damaged pickle: it ends with {len(self.stack)} values")
        return self.stack[0]

    def _take(self, count: int) -> list[Any]:
        taken = [self.stack.pop() for _ in range(count)][::-1]
        if any(value is _MARK for value in taken):
            raise UnsafePickleError("a damaged pickle: a mark where a value should be")
        return taken

    def _since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _push_name(self, module: object, name: object) -> None:
        known = _NAMES.get((_text(module), _text(name)))
        if known is None:
            raise UnsafePickleError(f"it names {_text(module)[:60]!a}.{_text(name)[:60]!a}, which no array needs")
        self.stack.append(_Name(known))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise UnsafePickleError("a damaged pickle: items for something that is not a list")
        target.extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise UnsafePickleError("a damaged pickle: keys and values for something that is not a dict")
        for key, value in _pairs(items):
            target[_text(key)] = value

    def _reduce(self) -> None:
        function, arguments = self._take(2)
        if function == _Name("_reconstruct"):
            self.stack.append(ArrayRecord())
        elif function == _Name("dtype") and isinstance(arguments, tuple) and arguments:
            self.stack.append(DtypeRecord(_text(arguments[0])))
        else:
            raise UnsafePickleError("a call of something that makes no array")

    def _build(self) -> None:
        (state,) = self._take(1)
        target = self.stack[-1]
        if isinstance(target, ArrayRecord) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            if not (
                isinstance(shape, tuple)
                and len(shape) <= _MOST_SIDES
                and all(type(side) is int and side >= 0 for side in shape)
                and isinstance(dtype, DtypeRecord)
                and isinstance(fortran, bool)
                and isinstance(data, Span | list)
            ):
                raise UnsafePickleError("an array whose state is not one that numpy writes")
            target.shape, target.dtype, target.fortran, target.data = shape, dtype, fortran, data
        elif isinstance(target, DtypeRecord) and isinstance(state, tuple) and len(state) >= 2:
            target.order = _text(state[1])
        else:
            raise UnsafePickleError("the state of something that is no array")


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _text(value: object) -> str:
    """A string of either Python's pickles."""
    if isinstance(value, Span) and value.text is not None:
        return value.text
    if not isinstance(value, str):
        raise UnsafePickleError(f"a {type(value).__name__} where a name should be")
    return value
