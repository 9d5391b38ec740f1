"""A finished store as a read-only group of zarr-python: its chunks as they are stored, or decoded to floats.

The files themselves are a zarr group too, but there zarr reads what is missing as fill values without a word, and gives
bytes. Here a chunk is what :class:`~mettle_cache.store.reading.token_store.TokenStore` reads: compared with the commit
record, and an error where a clip has no tokens or is damaged.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from mettle_cache.layers import group_by_array
from mettle_cache.store.format.codecs import CODES, CodecArray
from mettle_cache.store.format.files import LARGEST_TABLE, read_expected
from mettle_cache.store.format.layout import ArrayLayout, group_json
from mettle_cache.store.format.metadata import ROOT, StoreMetadata
from mettle_cache.tokens import LayerTokens

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_store import TokenStore

_TOKENS = ("segment", "token", "channel")


@dataclass(frozen=True)
class _Array:
    """An array of the view: its layout, its metadata, and how a layer's tokens ``[1, T, *]`` become a chunk."""

    layout: ArrayLayout
    document: bytes
    render: Callable[[LayerTokens], bytes]

    def key(self, clip: int, block: int) -> str:
        """The name of a chunk in the array's folder."""
        axes = 1 if self.layout.clips_each is not None else len(self.layout.fields[0].shape)
        return f"c.{clip}.{block}{axes * '.0'}"


def open_zarr(store: TokenStore, metadata: StoreMetadata, *, decoded: bool) -> zarr.Group:
    """The group of a finished store; its arrays have a chunk a block of a clip."""
    arrays = _decoded_arrays(metadata) if decoded else _stored_arrays(metadata)
    if decoded:
        groups = {name.rpartition("/")[0] for name in arrays}
        documents = {f"{group}/{ROOT}".removeprefix("/"): group_json({}) for group in {"", *groups}}
    else:
        documents = metadata.metadata_files()
    documents |= {f"{name}/{ROOT}": array.document for name, array in arrays.items()}
    static = {} if decoded else metadata.record.key.static or {}
    return zarr.open_group(_View(store, decoded, documents, arrays, static), mode="r", zarr_format=3)


def _stored_arrays(metadata: StoreMetadata) -> dict[str, _Array]:
    """The arrays of the store itself."""

    def render_as(array: ArrayLayout) -> Callable[[LayerTokens], bytes]:
        def render(tokens: LayerTokens) -> bytes:
            tensors = {CODES: tokens.codes, **tokens.parts}
            return b"".join(_bytes_of(tensors[field.part]) for field in array.fields)

        return render

    return {array.name: _Array(array, _without_shards(array), render_as(array)) for array in metadata.layout}


def _decoded_arrays(metadata: StoreMetadata) -> dict[str, _Array]:
    """An array a stage: float32 ``[clip, block, T, N, D]``."""
    arrays = {}
    for name, layers in group_by_array(metadata.layers).items():
        shape = (metadata.segments, layers[0].tokens, layers[0].width)
        field = CodecArray(part="tokens", dtype="float32", axes=_TOKENS, shape=shape)
        array = ArrayLayout(name, layers, (field,), metadata.clips)
        # axes of the same name must be of the same length, for tools that open a whole group
        stage = name.rpartition("/")[2]
        axes = ["clip", f"{stage}_block", "segment", f"{stage}_token", f"{stage}_channel"]
        document = _without_shards(
            array, dimension_names=axes, attributes={"layers": [layer.name for layer in array.layers]}
        )
        arrays[name] = _Array(array, document, lambda tokens: _bytes_of(tokens.floats(torch.float32)))
    return arrays


def _without_shards(array: ArrayLayout, **changes: object) -> bytes:
    """The metadata of an array with the inner chunks of its shards as chunks; their checksums were compared already."""
    document: dict[str, Any] = json.loads(array.zarr_json()) | changes
    sharding = document["codecs"][0]["configuration"]
    document["chunk_grid"]["configuration"]["chunk_shape"] = sharding["chunk_shape"]
    document["codecs"] = [codec for codec in sharding["codecs"] if codec["name"] == "bytes"]
    return json.dumps(document).encode()


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


class _View(Store):
    """The keys and values of the view, for zarr; may be sent to another process, which opens the store there."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(
        self,
        store: TokenStore,
        decoded: bool,
        documents: Mapping[str, bytes],
        arrays: Mapping[str, _Array],
        static: Mapping[str, str],
    ) -> None:
        super().__init__(read_only=True)
        self._store = store
        self._decoded = decoded
        self._documents = documents
        self._arrays = arrays
        # files that are given as they are, and their digests
        self._static = static

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self._store, self._decoded)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _View) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{'decoded' if self._decoded else 'stored'} chunks of {self._store!r}>"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key, or None where there is none.

        Raises
        ------
        StoreError
            A chunk of a clip that has no tokens; StoreCorruptError for damage.
        """
        data = await asyncio.to_thread(self._read, key)
        return None if data is None else prototype.buffer.from_bytes(_part(data, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several values; raises as :meth:`get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a value; a clip without tokens has none."""
        place = self._place(key)
        stored = place is not None and self._store.statuses[place[1]] == "ok"
        return stored or key in self._documents or key in self._static

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What a folder holds: the names of values and of folders."""
        folder = f"{prefix.rstrip('/')}/".removeprefix("/")
        names = (key[len(folder) :].partition("/")[0] for key in self._keys() if key.startswith(folder))
        for name in dict.fromkeys(names):
            yield name

    async def set(self, key: str, value: Buffer) -> NoReturn:
        """Refused: raises ValueError, as zarr does for what is read-only."""
        self._refuse()

    async def delete(self, key: str) -> NoReturn:
        """Refused: raises ValueError, as zarr does for what is read-only."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        self._check_writable()
        raise AssertionError("a view is read-only")

    def _identity(self) -> tuple[object, ...]:
        store = self._store
        return store.path.absolute(), store.key_digest, store.content_digest, self._decoded

    def _keys(self) -> Iterator[str]:
        yield from self._documents
        yield from self._static
        stored = [clip for clip, status in enumerate(self._store.statuses) if status == "ok"]
        for name, array in self._arrays.items():
            yield from (f"{name}/{array.key(*place)}" for place in product(stored, range(array.layout.blocks)))

    def _place(self, key: str) -> tuple[_Array, int, int] | None:
        """The array, clip and block of a chunk's key."""
        name, _, chunk = key.rpartition("/")
        numbers = re.match(r"c\.([0-9]{1,9})\.([0-9]{1,9})\.", chunk)
        if name not in self._arrays or numbers is None:
            return None
        array, clip, block = self._arrays[name], int(numbers[1]), int(numbers[2])
        known = clip < array.layout.clips and block < array.layout.blocks and chunk == array.key(clip, block)
        return (array, clip, block) if known else None

    def _read(self, key: str) -> bytes | None:
        if key in self._documents:
            return self._documents[key]
        if key in self._static:
            store = self._store.path
            return read_expected(store / key, expected=self._static[key], limit=LARGEST_TABLE, store=store)
        place = self._place(key)
        if place is None:
            return None
        array, clip, block = place
        layer = array.layout.layers[block].name
        return array.render(self._store.read([clip], [layer]).layers[layer])


def _part(data: bytes, wanted: ByteRequest | None) -> bytes:
    if isinstance(wanted, RangeByteRequest):
        return data[wanted.start : wanted.end]
    if isinstance(wanted, OffsetByteRequest):
        return data[wanted.offset :]
    if isinstance(wanted, SuffixByteRequest):
        return data[max(0, len(data) - wanted.suffix) :]
    return data


def _reopen(store: TokenStore, decoded: bool) -> Store:
    return store.to_zarr(decoded=decoded).store
