"""Weights files that somebody else made: read without running anything in them, and checked."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mettle_cache.errors import WeightsError

WRAPPERS = ("state_dict", "model")
PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, floats as float32, unwrapped from ``state_dict``/``model`` and ``module.``.

    Raises
    ------
    WeightsError
        No such file, an unknown kind of file, a damaged one, a pickle with more in it than tensors, or NaN weights.
    """
    path = path.expanduser()  # no shell expands the ~ of NAME=~/FILE
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist", hint="check the path")
    if path.suffix == ".safetensors":
        content: object = _read_safetensors(path)
    elif path.suffix in PICKLED:
        content = _read_pickle(path)
    else:
        raise WeightsError(
            f"weights file {path}: '{path.suffix}' is no kind that is read here",
            hint=f"give a .safetensors file (or {', '.join(PICKLED)})",
        )
    state = _unwrap(content, path)
    _refuse_nan(state, path)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights file {path} is damaged or incomplete: {error}", hint="fetch it again and compare its size"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # a plain pickle of another protocol is refused below in our own words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights file {path} is refused: it holds pickled objects other than tensors, which could run any "
            "program when read (nothing of it was run), or it is no PyTorch file at all",
            hint="where you trust the file, save its state dict again as .safetensors and give that",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"weights file {path} is damaged or incomplete: {str(error).splitlines()[0] if str(error) else 'it ends'}",
            hint="fetch it again and compare its size",
        ) from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"weights file {path} holds no tensors", hint="give a file with a model's state dict")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _refuse_nan(state: Mapping[str, Tensor], path: Path) -> None:
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise WeightsError(
            f"weights file {path} holds values that are not finite numbers, first in '{bad[0]}'",
            hint="the file is damaged or the training diverged; take another one",
        )


def explain_mismatch(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor], what: str) -> str:
    """Why a state dict does not fit: a few of the missing and unexpected keys, and of the tensors of another shape."""
    missing = [key for key in expected if key not in loaded]
    unexpected = [key for key in loaded if key not in expected]
    shapes = [
        f"{key} {tuple(loaded[key].shape)} where {tuple(tensor.shape)} is wanted"
        for key, tensor in expected.items()
        if key in loaded and loaded[key].shape != tensor.shape
    ]
    parts = [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    return f"{what} does not fit ({'; '.join(parts)})" if parts else f"{what} does not fit"
