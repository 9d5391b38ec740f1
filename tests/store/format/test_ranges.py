"""Ranges that are judged later: the same refusals, and no look at the device until then."""

import pytest
import torch

from mettle_cache.errors import TokensError
from mettle_cache.layers import LayerSpec
from mettle_cache.store.format.codecs import encode_layers, get_codec
from mettle_cache.store.format.ranges import RangeChecks
from tests.host_reads import Calls, Operators
from tests.store.format.test_klt import static_of

NAMES = ("float16", "int8", "int4", "klt1.5")
LAYERS = tuple(
    LayerSpec(modality="visual", stage=1, block=block, grid=(2, 3), tokens=6, width=16) for block in (1, 2, 3)
)
CPU, META = torch.device("cpu"), torch.device("meta")


def tokens(device=CPU):
    random = torch.Generator().manual_seed(0)
    return {layer.name: torch.randn(2, 6, 16, generator=random).to(device) for layer in LAYERS}


def static(codec):
    return {layer.name: static_of(codec, layer)[layer.name] for layer in LAYERS} if codec.pilot(LAYERS) else {}


def encode(x, codec, arrays, checks=None):
    codes = encode_layers(x, codec, LAYERS, arrays, checks=checks)
    if checks is not None:
        checks.judge(checks.extremes(CPU))
    return codes


def refusal(*given):
    with pytest.raises(TokensError) as caught:
        encode(*given)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e9])
def test_the_same_tokens_are_refused_with_the_same_words(name, bad):
    codec, x = get_codec(name), tokens()
    arrays = static(codec)
    for layer in LAYERS[1:]:
        x[layer.name][1, 3, 4] = bad
    at_once = refusal(x, codec, arrays)
    assert f"layer {LAYERS[1].name}: values from" in at_once[0]
    assert refusal(x, codec, arrays, RangeChecks()) == at_once


@pytest.mark.parametrize("name", NAMES)
def test_good_tokens_have_the_same_codes(name):
    codec = get_codec(name)
    arrays = static(codec)
    expected, found = (encode(tokens(), codec, arrays, checks) for checks in (None, RangeChecks()))
    for layer, one in expected.items():
        assert torch.equal(one.codes, found[layer].codes)
        assert all(torch.equal(part, found[layer].parts[key]) for key, part in one.parts.items())


@pytest.mark.parametrize("name", NAMES)
def test_encoding_reads_no_number_and_sends_static_arrays_once(name):
    codec, x = get_codec(name), tokens(META)
    arrays, sent = static(codec), []
    for _ in range(2):
        # what is static lies on the host, where looking at it waits for nothing
        with Operators() as operators:
            encode_layers(x, codec, LAYERS, arrays, checks=RangeChecks())
        sent.append(operators.found)
    # a basis and steps a layer
    assert sent == [{"copy to meta": 2 * len(LAYERS)} if arrays else {}, {}]


def test_a_check_at_once_is_a_read_for_every_layer():
    with Calls() as calls:
        encode_layers(tokens(), get_codec("float16"))
    # a CPU encodes frame by frame
    assert calls.counts["tolist"] == 2 * len(LAYERS)


def test_judging_nothing_refuses_nothing():
    checks = RangeChecks()
    checks.judge(checks.extremes(CPU))
