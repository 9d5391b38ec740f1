"""The codecs of this package as they declare themselves."""

import pytest
import torch

from mettle_cache.errors import StoreError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import CODES, encode_layers, get_codec
from mettle_cache.tokens import FLOATS, INT4, INT8
from tests.store.tiny import CODECS

WIDE = LayerSpec(modality="visual", stage=1, block=1, grid=(1, 3), tokens=3, width=6)
ODD = LayerSpec(modality="visual", stage=1, block=1, grid=(1, 3), tokens=3, width=5)
NUMBERS = {("scale", "float16", ("segment", "channel"), (2, 6)), ("zero", "float16", ("segment", "channel"), (2, 6))}


@pytest.mark.parametrize(
    ("name", "dtype", "width", "others"),
    [("float16", "float16", 6, set()), ("int8", "int8", 6, NUMBERS), ("int4", "uint8", 3, NUMBERS)],
)
def test_what_a_stage_is_stored_as(name, dtype, width, others):
    codes, *parts = get_codec(name).arrays([WIDE], segments=2)
    assert (codes.part, codes.dtype, codes.shape) == (CODES, dtype, (2, 3, width))
    assert codes.axes == ("segment", "token", "channel")
    assert {(part.part, part.dtype, part.axes, part.shape) for part in parts} == others
    assert not any(array.static for array in (codes, *parts))


def test_int4_refuses_an_odd_number_of_channels():
    message = "codec int4 packs two channels a byte and cannot store 5 channels"
    with pytest.raises(StoreError, match=message):
        get_codec("int4").arrays([ODD], segments=2)
    with pytest.raises(StoreError, match=message):
        encode_layers({ODD.name: torch.ones(1, 3, 5)}, get_codec("int4"))
    assert get_codec("int8").arrays([ODD], segments=2)[0].shape == (2, 3, 5)


def test_float16_stops_short_of_its_overflow():
    assert get_codec("float16").limit == 6e4


@pytest.mark.parametrize("name", CODECS)
def test_what_is_encoded_has_the_format_and_the_arrays_that_are_declared(name):
    codec = get_codec(name)
    assert codec.pilot([WIDE]) is None
    encoded = encode_layers({WIDE.name: torch.ones(2, 3, 6)}, codec)[WIDE.name]
    assert encoded.format == codec.format(WIDE, {}) == {"float16": FLOATS, "int8": INT8, "int4": INT4}[name]
    arrays = {CODES: encoded.codes, **encoded.parts}
    declared = {array.part: (f"torch.{array.dtype}", array.shape) for array in codec.arrays([WIDE], segments=2)}
    assert {part: (str(array.dtype), tuple(array.shape)) for part, array in arrays.items()} == declared
