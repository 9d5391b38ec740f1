"""The specification of a store to be written, and the key that tells two of them apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from mettle_cache.errors import ConfigError
from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.samples import CLIP, clips_of_samples
from mettle_cache.store.format.clip_ids import id_problems
from mettle_cache.store.format.codecs import NO_STATIC, StaticArrays, codec_version, get_codec
from mettle_cache.store.format.digests import canonical_json, digest, digest_of
from mettle_cache.store.format.layout import MOST_CLIPS_PER_SHARD, default_clips_per_shard
from mettle_cache.store.format.static import static_contents

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Everything that decides a store's bytes, and what is written beside them.

    Attributes
    ----------
    clips
        Unique ids, in the order of the clip axis.
    samples
        Annotation rows; column ``clip`` holds ids, or ``clips`` lists of them (:mod:`mettle_cache.samples`). Stored as
        they are, in this order.
    key
        JSON that names everything outside this class that changes bytes: weights, preprocessing, decode policy.
    provenance
        JSON for people: not compared, but it must not change from run to run either (no times, no hosts).
    clips_per_shard
        How many clips a shard holds; None: :func:`~mettle_cache.store.format.layout.default_clips_per_shard`.
    static
        The codec's static arrays, where it has any (:meth:`mettle_cache.store.format.codecs.Codec.pilot`). The key
        holds their digests.

    Raises
    ------
    ConfigError
        All that is wrong with the above.
    """

    dataset: str
    segments: int
    layers: tuple[LayerSpec, ...]
    codec: str
    clips: tuple[str, ...]
    samples: pa.Table
    vocabulary: Mapping[str, Sequence[str]] = field(default_factory=dict)
    key: Mapping[str, object] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    clips_per_shard: int | None = None
    static: StaticArrays = field(default_factory=lambda: NO_STATIC, repr=False)

    def __post_init__(self) -> None:
        get_codec(self.codec)
        problems = [*self._shape_problems(), *id_problems(self.clips), *self._sample_problems()]
        if problems:
            raise ConfigError(problems[:20], where=f"store of {self.dataset or 'a data set'}")

    def _shape_problems(self) -> Iterator[str]:
        if self.segments < 1:
            yield f"segments must be at least 1, not {self.segments}"
        if self.clips_per_shard is not None and not 1 <= self.clips_per_shard <= MOST_CLIPS_PER_SHARD:
            yield f"clips_per_shard must be from 1 to {MOST_CLIPS_PER_SHARD:,}, not {self.clips_per_shard}"
        yield from layer_problems(self.layers)

    def _sample_problems(self) -> Iterator[str]:
        if CLIP not in self.samples.column_names:
            yield "samples have no column 'clip'"
            return
        unknown = sorted({str(clip) for clips in clips_of_samples(self.samples) for clip in clips} - set(self.clips))
        if unknown:
            yield f"samples name clips that are not stored: {', '.join(unknown[:5])}"

    def key_document(self) -> dict[str, object]:
        """The whole key: :attr:`key` and everything of this class that changes bytes."""
        document: dict[str, object] = {
            "format": FORMAT_VERSION,
            "dataset": self.dataset,
            "segments": self.segments,
            "codec": self.codec,
            "clips_per_shard": self.clips_each,
            "layers": [layer.to_json() for layer in self.layers],
            "clips": {"count": len(self.clips), "digest": digest_of(list(self.clips))},
            "samples": {"rows": self.samples.num_rows, "digest": samples_digest(self.samples)},
            "vocabulary": {name: list(words) for name, words in self.vocabulary.items()},
            "extraction": json.loads(canonical_json(self.key)),
        }
        if (version := codec_version(get_codec(self.codec))) > 1:
            document["codec_version"] = version
        if self.static_files:
            document["static"] = {name: digest(content) for name, content in self.static_files.items()}
        return document

    @cached_property
    def clips_each(self) -> int:
        """How many clips a shard holds, chosen or by default."""
        if self.clips_per_shard is not None:
            return self.clips_per_shard
        return default_clips_per_shard(self.layers, self.segments, get_codec(self.codec), len(self.clips))

    @cached_property
    def static_files(self) -> Mapping[str, bytes]:
        """The content of the files of the codec's static arrays, by path within the store.

        Raises
        ------
        StoreError
            :attr:`static` does not hold what the codec declares.
        """
        return static_contents(self.layers, self.segments, get_codec(self.codec), self.static)


def layer_problems(layers: Sequence[LayerSpec]) -> Iterator[str]:
    """The reasons why a layer table cannot be stored; none if it can."""
    if not layers:
        yield "no layers"
    if len({layer.name for layer in layers}) != len(layers):
        yield "two layers have the same name"
    for array, members in group_by_array(layers).items():
        if len({(layer.tokens, layer.width, layer.cell) for layer in members}) > 1:
            yield f"the layers of {array} differ in tokens, width or cells and cannot share an array"


def key_differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Lines ``field: old -> new`` for every leaf that differs."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _leaves(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
        return
    text = canonical_json(value).decode()
    # a list of layers or of words is compared whole, but only its digest is worth a line in a message
    yield name, text if len(text) <= 80 else f"{text[:40]}... ({digest(text.encode())[:8]})"


def samples_digest(samples: pa.Table) -> str:
    """The digest of annotation rows as it is in the key: of names, types and values."""
    names = [[name, str(samples.schema.field(name).type)] for name in samples.column_names]
    return digest_of([names, [{name: _plain(value) for name, value in row.items()} for row in samples.to_pylist()]])


def _plain(value: object) -> object:
    """A table's value as JSON: binary ones, such as masks, by their digest."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return digest(value) if isinstance(value, bytes) else value
