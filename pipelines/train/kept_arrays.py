"""A codec's static arrays in one safetensors file, beside the head that was trained on its codes.

A run and an exported head keep those of the layers that the head reads, so that tokens of new media can be encoded as
those that it was trained on without the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from mettle_cache.errors import RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.train.checkpoint import under_prefix, with_prefix, write_tensors
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.format.codecs import StaticArrays

if TYPE_CHECKING:
    from torch import Tensor

    from mettle_cache.store.reading.token_source import TokenSource

STATIC_FORMAT = "mettle-static-1"
STATIC = "static"


def keep_static(folder: RunFolder, store: TokenSource, layers: Iterable[LayerSpec]) -> None:
    """Copy the store's static arrays of these layers into a run that has none yet; nothing for most codecs.

    Those of all layers where tokens are computed: the key that tells them from others has them all.
    """
    if not store.static or folder.has(folder.static):
        return
    tensors = static_tensors(store.static, layers if store.computed is None else store.layers)
    folder.commit({folder.static: lambda path: write_tensors(path, tensors, STATIC_FORMAT, {"codec": store.codec})})


def kept_static(folder: RunFolder) -> StaticArrays:
    """The static arrays that a run keeps, by layer name and part; none where its store's codec has none.

    Raises
    ------
    RunError
        They are not what the run wrote.
    """
    if not folder.has(folder.static):
        return {}
    path = folder.check(folder.static)
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: the static arrays are damaged ({error})") from error
    return static_of_tensors(tensors)


def static_tensors(static: StaticArrays, layers: Iterable[LayerSpec]) -> dict[str, Tensor]:
    """Static arrays of these layers as tensors with names of their own: ``static/visual/s3b01/basis``."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors |= with_prefix(f"{STATIC}/{layer.name}", static.get(layer.name, {}))
    return tensors


def static_of_tensors(tensors: Mapping[str, Tensor]) -> StaticArrays:
    """The inverse of :func:`static_tensors`; other tensors are left out."""
    arrays: dict[str, dict[str, Tensor]] = {}
    for name, tensor in under_prefix(STATIC, tensors).items():
        layer, _, part = name.rpartition("/")
        arrays.setdefault(layer, {})[part] = tensor
    return arrays
