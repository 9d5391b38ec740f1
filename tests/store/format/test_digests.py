"""Checksums against the specification's own vectors and another library; documents against their own text."""

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.store.format.digests import canonical_json, crc32c, crc_bytes, digest_of

# RFC 3720, appendix B.4, and the check value of the CRC catalogue
VECTORS = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}


def test_the_vectors_of_the_specification():
    for data, expected in VECTORS.items():
        assert crc32c(memoryview(data)) == expected


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_pieces_have_the_checksum_of_the_whole(data, cut):
    view, cut = memoryview(data), min(cut, len(data))
    assert crc32c(view) == crc32c(view[cut:], crc32c(view[:cut])) == google_crc32c.value(data)


@pytest.mark.parametrize("size", [16 << 10, 64 << 10, (256 << 10) + 1, (1 << 20) + 7])
def test_large_pieces_at_any_place_in_memory_too(size):
    data = np.random.default_rng(size).integers(0, 256, size + 3, np.uint8)
    for start in range(3):
        piece = memoryview(data)[start : start + size]
        assert crc32c(piece) == google_crc32c.value(bytes(piece))


def test_the_checksum_is_stored_as_four_bytes_little_endian():
    assert crc_bytes(0xE3069283) == b"\x83\x92\x06\xe3"


def test_a_document_has_one_rendering_whatever_the_order_of_its_keys():
    document = {"b": [1.5, None, True], "a": {"z": "é", "y": -1}}
    assert canonical_json(document) == b'{"a":{"y":-1,"z":"\\u00e9"},"b":[1.5,null,true]}'
    assert digest_of({"a": {"y": -1, "z": "é"}, "b": [1.5, None, True]}) == digest_of(document)
    assert digest_of({**document, "b": [None, 1.5, True]}) != digest_of(document)
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})
