"""Digests that reveal damage: blake2b for documents and small files, crc32c for the chunks of tokens.

crc32c is the checksum of zarr's chunks (RFC 3720, Castagnoli), computed by the fastest installed library.
google-crc32c is always installed. The optional ``crc32c`` (pip install 'mettle-cache[fast]') was measured to be 1 to 4
times as fast, and releases the interpreter, so that reading threads do not wait for one that checks.
"""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec

import google_crc32c

CRC_BYTES = 4


def canonical_json(document: object) -> bytes:
    """A document as the bytes whose digest is taken: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(data: bytes) -> str:
    """blake2b with 16 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of(document: object) -> str:
    """The digest of a JSON document."""
    return digest(canonical_json(document))


def crc32c_of_google(data: memoryview, before: int = 0) -> int:
    """The checksum by google-crc32c."""
    import numpy as np

    return int(google_crc32c.extend(before, np.frombuffer(data, np.uint8)))


def crc32c_of_icrar(data: memoryview, before: int = 0) -> int:
    """The checksum by the library crc32c."""
    import crc32c as icrar

    return int(icrar.crc32c(data, before))


def _has_fast() -> bool:
    if find_spec("crc32c") is None:
        return False
    import crc32c as icrar

    # without the processor's instruction it would be the slower one
    return bool(icrar.hardware_based)


LIBRARY, _chosen = ("crc32c", crc32c_of_icrar) if _has_fast() else ("google-crc32c", crc32c_of_google)


def crc32c(data: memoryview, before: int = 0) -> int:
    """The checksum of a contiguous buffer, without a copy; ``before`` is the checksum of the bytes before it."""
    return _chosen(data, before)


def crc_bytes(value: int) -> bytes:
    """A checksum as it follows its chunk: 4 bytes, little endian."""
    return value.to_bytes(4, "little")
