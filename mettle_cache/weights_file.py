"""Weights files that somebody else made: told by their content, read without running anything in them, and bounded.

A name proves nothing: a download saves an error page under the name of a checkpoint, and ``.pth`` has been given to
every kind of file below.
"""

from __future__ import annotations

import difflib
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mettle_cache.content import describe_content
from mettle_cache.errors import WeightsError
from mettle_cache.paths import local_path

FETCH_AGAIN = "fetch it again and compare its size"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_GIVE = "give the weights as .safetensors or as PyTorch saved them (.pth, .pt, .ckpt, .bin)"

_ZIP, _PICKLE = b"PK", b"\x80"
_HEAD_BYTES = 4096
_LISTED = 5
# tensors may share or repeat storage, and halves become floats; more than this is a file made to exhaust the memory
_LARGEST_GROWTH = 4
_ALWAYS_ALLOWED = 1 << 26


def read_weights_file(path: Path) -> Mapping[object, object]:
    """What a weights file holds, nested as it is; tensors are on the CPU.

    Raises
    ------
    WeightsError
        No such file, a file of another kind, a damaged one, a pickle with more in it than tensors, or one that takes
        far more memory than disk.
    """
    path = local_path(path)
    size = _require_file(path)
    head = _read_head(path)
    if head[8:9] == b"{":  # after the eight bytes of its length, the header of a safetensors file
        content: object = _read_safetensors(path)
    else:
        _refuse_others(head, path)
        archive = head.startswith(_ZIP)
        if archive:
            _check_archive(path, size)
        content = _read_pickle(path, archive=archive)
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors")
    _refuse_growth(content, path, size)
    return content


def _require_file(path: Path) -> int:
    """The size of a file that is there and not empty."""
    if path.is_dir():
        inside = _weights_in(path)
        more = f" and {len(inside) - _LISTED:,} more" if len(inside) > _LISTED else ""
        several = f"give one of: {', '.join(inside[:_LISTED])}{more}"
        hint = f"give the file: {path / inside[0]}" if len(inside) == 1 else several
        raise WeightsError(
            f"weights file {path} is a folder", hint=hint if inside else f"it holds no weights file; {_GIVE}"
        )
    if not path.exists():
        raise WeightsError(f"weights file {path} does not exist", hint=_beside(path))
    if not path.is_file():
        raise WeightsError(f"weights file {path} is no regular file", hint=_GIVE)
    size = path.stat().st_size
    if not size:
        raise WeightsError(f"weights file {path} is empty (0 bytes)", hint=FETCH_AGAIN)
    return size


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise WeightsError(
            f"weights file {path} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f"check the path: there is no folder {path.parent}"
    there = _weights_in(path.parent)
    close = difflib.get_close_matches(path.name, there, _LISTED, cutoff=0.5) or there[:_LISTED]
    return f"check the path; in that folder: {', '.join(close)}" if close else "check the path"


def _weights_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
    except OSError:
        return []  # a hint is not worth another error


def _refuse_others(head: bytes, path: Path) -> None:
    if b'"weight_map"' in head:
        raise WeightsError(
            f"weights file {path} is the index of weights that are spread over several files",
            hint="merge them into one .safetensors file",
        )
    if not head.startswith((_ZIP, _PICKLE)):
        what = describe_content(head)
        packed = "compressed" in what or "archive" in what
        raise WeightsError(f"weights file {path} is {what}, not weights", hint="unpack it first" if packed else _GIVE)


def _check_archive(path: Path, size: int) -> None:
    """``torch.save`` writes a zip archive that nothing in it is compressed in."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"weights file {path} is damaged or incomplete: {error}", hint=FETCH_AGAIN) from error
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise WeightsError(
            f"weights file {path} is a TorchScript program, which would have to be run to be read",
            hint="where you trust it, save its state dict: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    if not names:
        raise WeightsError(f"weights file {path} is an empty zip archive", hint=FETCH_AGAIN)
    if not any(name.endswith("data.pkl") for name in names):
        kind = "a NumPy archive" if all(name.endswith(".npy") for name in names) else "a zip archive without weights"
        raise WeightsError(f"weights file {path} is {kind} ({', '.join(names[:_LISTED])})", hint=_GIVE)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > size
    ):
        raise WeightsError(
            f"weights file {path} is refused: its content is compressed, which PyTorch never does",
            hint="where you trust it, load it with PyTorch and save its state dict again",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"weights file {path} is damaged or incomplete: {error}", hint=FETCH_AGAIN) from error


def _read_pickle(path: Path, *, archive: bool) -> object:
    refused = WeightsError(
        f"weights file {path} is refused: it holds pickled objects other than tensors, which could run any "
        "program when read (nothing of it was run), or it is no PyTorch file at all",
        hint="where you trust the file, save its state dict again as .safetensors and give that",
    )
    try:
        stand_ins = _stand_ins(path) if archive else []
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            # a plain pickle of another protocol is refused below in our own words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refused from error
    except Exception as error:  # a damaged pickle can ask the interpreter for anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"weights file {path} is damaged or incomplete: {reason}", hint=FETCH_AGAIN) from error
    if stand_ins and (isinstance(content, _LeftOut) or not content):
        raise refused
    return content


class _LeftOut:
    """Stands for an object beside the weights, such as a NumPy number: nothing of it is made or kept."""

    def __new__(cls, *_: object) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _LeftOutMapping:
    """As :class:`_LeftOut`, for what may have items: gives a dictionary of a kind that PyTorch lets be filled."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


def _stand_ins(path: Path) -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    """For every class and function that an archive names and PyTorch does not allow, what is called in its place.

    Trainers save their arguments, configuration and best score beside the weights. PyTorch refuses all the same what
    names a module of the operating system.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(_LeftOut if name.startswith("numpy.") else _LeftOutMapping, name) for name in names]


def _tensors_in(content: object) -> Iterator[Tensor]:
    """Every tensor of nested dictionaries, as often as it is named; what is nested in itself is followed once."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values())


def _refuse_growth(content: Mapping[object, object], path: Path, size: int) -> None:
    """A tensor may say that one stored number stands for a billion: its values would take gigabytes as floats."""
    needed = 0
    for tensor in _tensors_in(content):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(
                f"weights file {path} holds a tensor that is sparse, quantised or without values",
                hint="save its state dict with plain dense tensors",
            )
        needed += 4 * tensor.numel()
        if needed > max(_LARGEST_GROWTH * size, _ALWAYS_ALLOWED):
            raise WeightsError(
                f"weights file {path} is refused: its {size:,} bytes stand for more than {needed:,} of numbers",
                hint="where you trust it, load it with PyTorch and save its state dict with contiguous tensors",
            )
