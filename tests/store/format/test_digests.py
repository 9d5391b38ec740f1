"""Both libraries against the specification's own vectors, and against one another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.store.format import digests
from mettle_cache.store.format.digests import (
    canonical_json,
    crc32c,
    crc32c_of_google,
    crc32c_of_icrar,
    crc_bytes,
    digest_of,
)

# RFC 3720, appendix B.4, and the check value of the CRC catalogue
VECTORS = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}


@pytest.mark.parametrize("function", [crc32c, crc32c_of_google, crc32c_of_icrar])
def test_the_vectors_of_the_specification(function):
    for data, expected in VECTORS.items():
        assert function(memoryview(data)) == expected


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_pieces_have_the_checksum_of_the_whole_in_either_library(data, cut):
    view, cut = memoryview(data), min(cut, len(data))
    whole = crc32c_of_google(view)
    assert crc32c_of_icrar(view) == whole
    for function in (crc32c_of_google, crc32c_of_icrar):
        assert function(view[cut:], function(view[:cut])) == whole


def test_the_checksum_is_stored_as_four_bytes_little_endian():
    assert crc_bytes(0xE3069283) == b"\x83\x92\x06\xe3"


def test_the_library_in_use_is_named():
    assert digests.LIBRARY in ("crc32c", "google-crc32c")


def test_a_document_has_one_rendering_whatever_the_order_of_its_keys():
    document = {"b": [1.5, None, True], "a": {"z": "é", "y": -1}}
    assert canonical_json(document) == b'{"a":{"y":-1,"z":"\\u00e9"},"b":[1.5,null,true]}'
    assert digest_of({"a": {"y": -1, "z": "é"}, "b": [1.5, None, True]}) == digest_of(document)
    assert digest_of({**document, "b": [None, 1.5, True]}) != digest_of(document)
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})
