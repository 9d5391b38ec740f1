"""The registry of codecs, and what every codec is held to when it encodes."""

import pytest
import torch

from mettle_cache.errors import PluginError, StoreError, UsageError
from mettle_cache.registry import CodecRow
from mettle_cache.store.format.codecs import CODECS, encode_layers, get_codec
from tests.store.tiny import LAYERS, raw_tokens
from tests.store.toy_codecs import SIX


def test_an_unknown_codec_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match=r"no codec is called 'zip'\n.*float16, int8, int4"):
        get_codec("zip")


def test_a_row_whose_codec_has_another_name_is_refused():
    CODECS.register(CodecRow("seven", SIX.target))
    try:
        with pytest.raises(PluginError, match=r"codec 'seven' stands for .*:SIX_BITS, which is no codec of that name"):
            get_codec("seven")
    finally:
        CODECS.unregister("seven")


@pytest.mark.parametrize("encoded", [[], ["audio/s1b01", "audio/s9b01"]])
def test_a_codec_that_gives_other_layers_than_it_got_is_refused(encoded):
    class Careless:
        name = "careless"

        def pilot(self, layers):
            return None

        def encode(self, tokens, layers, static):
            return dict.fromkeys(encoded, tokens["audio/s1b01"])

    with pytest.raises(StoreError, match=r"codec careless encoded .* when it was given \['audio/s1b01'\]"):
        encode_layers({"audio/s1b01": torch.ones(1, 2, 2)}, Careless())


def test_a_codec_with_a_pilot_is_not_run_without_its_arrays():
    CODECS.register(SIX)
    try:
        with pytest.raises(UsageError, match="codec six needs the static arrays of its pilot for audio/s1b01"):
            encode_layers(raw_tokens(0), get_codec("six"), LAYERS)
    finally:
        CODECS.unregister(SIX.name)
