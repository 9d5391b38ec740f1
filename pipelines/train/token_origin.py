"""How a store's tokens came from media: what turns a new video into such tokens when the store is not at hand.

``tokens.json`` in a run's folder, written once and listed in the run's record as its other files are; an exported head
has it in its description. Static arrays and companions lie beside it (``kept_arrays``, ``kept_companions``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from mettle_cache.errors import RunError
from mettle_cache.layers import LayerSpec
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import write_file

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource

FILE = "tokens.json"
# its key in the description of an exported head
TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True)
class TokenOrigin:
    """What a store records of how its tokens were made.

    Attributes
    ----------
    layers
        All that are stored, with their cells.
    extraction
        The part of the store's key that extraction decides: the backbones' fingerprints with the digests of their
        weights, options of the data set, how media were decoded, on what device.
    command
        The command that made the store, which names the backbones.
    store
        The digest of the store's key.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dataset: str
    segments: int
    codec: str
    codec_version: int
    layers: tuple[LayerSpec, ...]
    vocabulary: dict[str, list[str]]
    extraction: dict[str, Any]
    command: str
    store: str

    @classmethod
    def of(cls, store: TokenSource) -> TokenOrigin:
        return cls(
            dataset=store.dataset,
            segments=store.segments,
            codec=store.codec,
            codec_version=store.key.get("codec_version", 1) or 1,
            layers=store.layers,
            vocabulary={name: list(values) for name, values in store.vocabulary.items()},
            extraction=dict(store.key["extraction"]),
            command=str(store.provenance.get("command", "")),
            store=store.key_digest,
        )

    @classmethod
    def from_json(cls, table: object) -> TokenOrigin:
        """The inverse of :meth:`to_json`. Raises ValueError for anything else."""
        origin: TokenOrigin = TypeAdapter(cls).validate_python(table)
        return origin

    def to_json(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def keep_origin(folder: RunFolder, store: TokenSource) -> None:
    """Write into a run that has none yet how its store's tokens came from media."""
    path = folder.path / FILE
    if not folder.has(path):
        content = (json.dumps(TokenOrigin.of(store).to_json(), indent=1) + "\n").encode()
        folder.commit({path: partial(write_file, data=content)})


def kept_origin(folder: RunFolder) -> TokenOrigin | None:
    """What a run keeps of it; None for a run of an earlier version, which kept nothing.

    Raises
    ------
    RunError
        The file is not what the run wrote.
    """
    if not folder.has(folder.path / FILE):
        return None
    path = folder.check(folder.path / FILE)
    try:
        return TokenOrigin.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise RunError(f"{path}: what the run keeps of its store's tokens is damaged ({first})") from error
