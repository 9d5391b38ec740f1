"""The JSON records of a store: strict models that are valid only in their one canonical rendering.

A record carries the digest of its own content and is compared byte for byte with its rendering after parsing, so a
flipped bit anywhere in it, white space included, is found without another file. FORMAT.md sections 4, 6 and 7.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.clip_ids import MOST_CLIPS
from mettle_cache.store.format.digests import canonical_json, digest_of
from mettle_cache.store.format.layout import MOST_CLIPS_PER_SHARD

WholeNumber = Annotated[int, Field(ge=0, lt=1 << 31)]
Positive = Annotated[int, Field(ge=1, lt=1 << 31)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
# what a person reads in a message or a listing
ShortText = Annotated[str, Field(max_length=256)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
LONGEST_ERROR = 2000


class Strict(BaseModel):
    """No coercion, no unknown fields, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LayerModel(Strict):
    """A row of the layer table."""

    modality: Literal["visual", "audio"]
    stage: Annotated[int, Field(ge=1, lt=1000)]
    block: Annotated[int, Field(ge=0, lt=1000)]
    grid: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    tokens: Positive
    width: Positive
    cell: Annotated[int, Field(ge=2, le=16)] | None = None
    name: ShortText

    @model_serializer(mode="wrap")
    def _without_absent(self, render: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = render(self)
        return {name: value for name, value in fields.items() if name != "cell" or value is not None}

    def to_layer(self) -> LayerSpec:
        rows, columns = self.grid
        layer = LayerSpec(
            modality=self.modality,
            stage=self.stage,
            block=self.block,
            grid=(rows, columns),
            tokens=self.tokens,
            width=self.width,
            cell=self.cell or 1,
        )
        if layer.name != self.name:
            raise ValueError(f"layer {layer.name} is called {self.name!a}")
        return layer


class ClipsModel(Strict):
    count: Annotated[int, Field(ge=1, le=MOST_CLIPS)]
    digest: Digest


class SamplesModel(Strict):
    rows: WholeNumber
    digest: Digest


class KeyModel(Strict):
    """The key: everything that changes bytes (:meth:`mettle_cache.store.format.spec.StoreSpec.key_document`)."""

    format: Literal[1, 2]
    dataset: ShortText
    segments: Positive
    codec: ShortText
    codec_version: Annotated[int, Field(ge=2)] | None = None
    clips_per_shard: Annotated[int, Field(ge=1, le=MOST_CLIPS_PER_SHARD)] | None = None
    layers: Annotated[list[LayerModel], Field(min_length=1, max_length=10_000)]
    clips: ClipsModel
    samples: SamplesModel
    vocabulary: dict[str, list[str]]
    extraction: dict[str, JsonValue]
    static: dict[str, Digest] | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, render: SerializerFunctionWrapHandler) -> dict[str, object]:
        # codecs without static arrays or later versions, and format 1, do not have these fields
        fields: dict[str, object] = render(self)
        absent = {"static", "codec_version", "clips_per_shard"}
        return {name: value for name, value in fields.items() if name not in absent or value is not None}

    @model_validator(mode="after")
    def _clips_per_shard_are_of_format_2(self) -> Self:
        if (self.format == 1) != (self.clips_per_shard is None):
            raise ValueError("clips_per_shard belongs to format 2, and only there")
        return self


class Sealed(Strict):
    """A record with its own digest."""

    format: Literal[1, 2] = 2

    def sealed(self) -> dict[str, object]:
        """The record's JSON with the digest of all the rest."""
        body = self.model_dump(mode="json")
        return {**body, "digest": digest_of(body)}

    def to_bytes(self) -> bytes:
        """The one valid rendering."""
        return canonical_json(self.sealed()) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a rendering.

        Raises
        ------
        ValueError
            It is not JSON, does not fit the model, or is not byte for byte what :meth:`to_bytes` gives.
        """
        # the digest is the last thing that rendering adds, so the model itself does not hold it
        sealed = _SealedDocument.model_validate_json(data).root_without_digest()
        try:
            record = cls.model_validate_json(canonical_json(sealed))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))[:80]
            raise ValueError(f"not a valid record: {where!a}: {first['msg'][:200]}") from error
        if record.to_bytes() != data:
            raise ValueError("its digest does not fit its content")
        return record


class _SealedDocument(BaseModel):
    """Any JSON object with a digest."""

    model_config = ConfigDict(extra="allow", strict=True)

    digest: str

    def root_without_digest(self) -> dict[str, object]:
        return dict(self.model_extra or {})


class RootRecord(Sealed):
    """Attribute ``mettle`` of the root group; ``samples`` is the digest of the file samples.parquet."""

    key: KeyModel
    key_digest: Digest
    samples: Digest
    provenance: dict[str, JsonValue]


class CommitRecord(Sealed):
    """What one clip has on disk: written after the data, so its presence says that the data is complete.

    ``crc32c`` holds the checksums of an array's chunks in block order, ``max_abs`` the largest decoded |x| of a layer.
    A line of its shard's log; in format 1 a file of its own.
    """

    index: WholeNumber
    clip: ShortText
    key: Digest
    status: Literal["ok", "failed"]
    error: Annotated[str, Field(max_length=LONGEST_ERROR)] | None
    source: ShortText | None
    nbytes: Annotated[int, Field(ge=0)]
    crc32c: dict[str, list[Checksum]]
    max_abs: dict[str, float]


class ReadyRecord(Sealed):
    """The last file of a store; ``commits`` is the digest of all commits, ``files`` the digests of all other files."""

    key: Digest
    clips: WholeNumber
    failed: WholeNumber
    nbytes: Annotated[int, Field(ge=0)]
    commits: Digest
    files: dict[str, Digest]
