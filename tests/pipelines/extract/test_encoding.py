"""Codes of a group as a device makes them: the same bytes, nothing read on the way, one copy a clip.

A CPU stands in for the device. On the meta device, whose tensors hold no numbers, a read would be an error.
"""

import threading
from dataclasses import dataclass, replace

import pytest
import torch

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import TokensError
from mettle_cache.pipelines.extract import encoding
from mettle_cache.pipelines.extract.encoding import encode_group
from mettle_cache.pipelines.extract.extractor import Extractor, build_extractor, store_spec
from mettle_cache.pipelines.extract.pilot import run_pilot
from mettle_cache.pipelines.extract.stream import stream_clips
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store import StoreWriter
from mettle_cache.store.format.codecs import CODECS, get_codec
from mettle_cache.store.reading.device_copy import pack, unpack
from tests.host_reads import Calls, Operators
from tests.pipelines.extraction import tiny, write_clips
from tests.store.toy_codecs import SIX

CODEC_NAMES = ("float16", "int8", "int4", "klt1.5")
GROUP = (3, 4, 5)


@dataclass(frozen=True, eq=False)
class ThreeTogether(Extractor):
    """Groups of several clips, as on a device."""

    clips_a_batch = 3


@dataclass(frozen=True, eq=False)
class AsOnADevice(ThreeTogether):
    """Ranges are judged when codes leave the device, too."""

    checks_later = True


@dataclass(frozen=True, eq=False)
class AtOnce(ThreeTogether):
    """Ranges are judged layer by layer, on any device."""

    checks_later = False


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("encoding") / "AVE")


def configure(root, codec="int8"):
    return tiny(root, root, codec=codec, layers="last:2")


@pytest.fixture(scope="module")
def on_meta(root):
    return build_extractor(configure(root), open_dataset("ave", root), device=torch.device("meta"))


@pytest.fixture(scope="module")
def build(root):
    """``build(codec, kind)``: an extractor of that class, its static arrays from a pilot."""
    plain = build_extractor(configure(root), open_dataset("ave", root))
    known = {}

    def get(codec, kind):
        if codec not in known:
            extractor = replace(plain, codec=get_codec(codec))
            pilot = extractor.codec.pilot(extractor.layers)
            static = {} if pilot is None else run_pilot(pilot, extractor, Silent())
            known[codec] = replace(extractor, static=static)
        return of_kind(known[codec], kind)

    return get


@pytest.fixture(scope="module")
def clips(build):
    return [build("int8", ThreeTogether).prepare(index) for index in GROUP]


def of_kind(extractor, kind):
    return kind(**{name: getattr(extractor, name) for name in extractor.__dataclass_fields__})


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, one in first.items():
        other = second[name]
        assert (one.format, one.static.keys()) == (other.format, other.static.keys())
        assert torch.equal(one.codes, other.codes)
        assert one.parts.keys() == other.parts.keys()
        assert all(torch.equal(part, other.parts[key]) for key, part in one.parts.items())


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_codes_are_those_of_a_cpu(build, clips, codec):
    direct, device = build(codec, ThreeTogether), build(codec, AsOnADevice)
    expected, found = direct.encode(clips), device.encode(clips)
    assert list(found) == list(expected) == list(GROUP)
    for index in GROUP:
        assert_same(found[index], expected[index])


def test_codes_of_a_codec_that_does_not_take_checks_are_the_same(build, clips):
    CODECS.register(SIX)
    try:
        direct, device = build("six", ThreeTogether), build("six", AsOnADevice)
        for index, codes in device.encode(clips).items():
            assert_same(codes, direct.encode(clips)[index])
    finally:
        CODECS.unregister("six")


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_clip_is_one_read_on_the_way_to_the_host(build, clips, codec):
    device = build(codec, AsOnADevice)
    with Calls() as calls, Operators() as operators:
        device.encode(clips)
    assert operators.found == {}
    # static arrays lie on the host: how many components have how many bits is read there
    on_host = len(GROUP) * len(device.layers) if device.static else 0
    assert {**+calls.counts} == {"tolist": len(GROUP) + on_host}


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_nothing_crosses_to_or_from_a_device_but_inputs_and_one_copy_a_clip(build, on_meta, clips, codec, monkeypatch):
    known = build(codec, AsOnADevice)
    # new ones, so that they are nowhere else yet
    arrays = {name: {part: array.clone() for part, array in of.items()} for name, of in known.static.items()}
    device = of_kind(replace(on_meta, codec=known.codec, static=arrays), AsOnADevice)
    fetched = []

    class Fetched:
        """Zeros of the shapes that would arrive."""

        def __init__(self, tensors):
            fetched.append(pack(tensors))
            self.tensors = tensors

        def wait(self):
            return unpack(torch.zeros(fetched[-1].shape, dtype=torch.uint8), self.tensors)

    monkeypatch.setattr(encoding, "HostTensors", Fetched)
    counts = []
    for _ in range(2):
        with Operators() as operators:
            codes = device.encode(clips[:2])
        counts.append(operators.found)
    first, second = counts
    assert second == {"copy to meta": len(device.backbones)}
    static = sum(len(arrays) - 1 for arrays in known.static.values())
    assert first == {"copy to meta": len(device.backbones) + static}
    assert len(fetched) == 2 * 2
    assert all(packed.device.type == "meta" for packed in fetched)
    assert all(layer.codes.device.type == "cpu" for layers in codes.values() for layer in layers.values())


def test_codes_that_stay_on_the_device_send_only_their_ranges(build, clips, monkeypatch):
    device, sizes = build("int8", AsOnADevice), []
    whole = encoding.HostTensors
    monkeypatch.setattr(encoding, "HostTensors", lambda tensors: sizes.append(len(tensors)) or whole(tensors))
    codes = replace(device, codes_on="meta").encode(clips)
    assert sizes == [1] * len(GROUP)
    assert {layer.codes.device.type for layers in codes.values() for layer in layers.values()} == {"meta"}


@pytest.mark.parametrize("kind", [ThreeTogether, AsOnADevice])
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_refused_value_names_its_layer_and_nothing_of_its_clip_is_written(build, root, tmp_path, codec, kind):
    spoilt = build(codec, kind).layers[1].name

    class Spoilt(kind):
        """One value of a layer of clip 4 is not finite."""

        def tokens(self, number, clips):
            found = super().tokens(number, clips)
            for index, layers in found:
                if index == 4 and spoilt in layers:
                    layers[spoilt] = layers[spoilt].clone()
                    layers[spoilt][2, 1, 0] = float("nan")
            return found

    extractor = of_kind(build(codec, kind), Spoilt)
    spec = store_spec(extractor, configure(root, codec))
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", spec) as writer:
        outcomes = list(stream_clips(extractor, writer, GROUP, threading.Event()))
        errors = {outcome.index: outcome.error for outcome in outcomes}
        statuses = [writer.status(index) for index in GROUP]
        made_of = set(writer.made_of())
    assert sorted(errors) == list(GROUP)
    assert (errors[3], errors[5]) == (None, None)
    assert errors[4].startswith(f"layer {spoilt}: values from nan to nan; codec {codec} takes finite values up to")
    assert statuses == ["ok", None, "ok"]
    assert made_of == {3, 5}


def test_a_group_is_refused_by_its_first_layer():
    layer_tokens = {name: torch.full((1, 2, 2), value) for name, value in (("a", 1.0), ("b", 1e9), ("c", 1e9))}
    with pytest.raises(TokensError, match="layer b: values from 1e"):
        encode_group([(0, layer_tokens)], get_codec("float16"), (), {}, checks_later=True)


@pytest.mark.gpu
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_gpu_gives_the_same_codes_whenever_it_judges_them(build, root, clips, codec):
    known = build(codec, ThreeTogether)
    on_gpu = build_extractor(configure(root), known.dataset, device=torch.device("cuda"))
    on_gpu = replace(on_gpu, codec=known.codec, static=known.static)
    expected = of_kind(on_gpu, AtOnce).encode(clips)
    found = of_kind(on_gpu, AsOnADevice).encode(clips)
    for index in GROUP:
        assert_same(found[index], expected[index])
