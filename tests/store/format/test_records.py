"""Records are valid in exactly one rendering, and every flipped bit is found."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.layers import MODALITIES
from mettle_cache.store.format.records import CommitRecord, LayerModel
from tests.store.tiny import LAYERS

hexes = st.text("0123456789abcdef", min_size=8, max_size=8)
commits = st.builds(
    CommitRecord,
    index=st.integers(0, 2**31 - 1),
    clip=st.text(),
    key=st.text("0123456789abcdef", min_size=32, max_size=32),
    status=st.sampled_from(["ok", "failed"]),
    error=st.none() | st.text(),
    source=st.none() | st.text(),
    nbytes=st.integers(0, 2**50),
    crc32c=st.dictionaries(st.text(), st.lists(hexes)),
    max_abs=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)
GOLDEN = (
    b'{"clip":"a","crc32c":{"visual/s1":["0badcafe"]},"digest":"10ac7c4011fbc38c91ea35cb559ae027","error":null,'
    b'"format":1,"index":7,"key":"00000000000000000000000000000000","max_abs":{"visual/s1b01":1.5},"nbytes":12,'
    b'"source":"s","status":"ok"}\n'
)


SECOND = (
    b'{"clip":"a","crc32c":{"visual/s1":["0badcafe"]},"digest":"8fcd7a8f92e803aea95912a96f94bf41","error":null,'
    b'"format":2,"index":7,"key":"00000000000000000000000000000000","max_abs":{"visual/s1b01":1.5},"nbytes":12,'
    b'"source":"s","status":"ok"}\n'
)


def golden_record(version):
    return CommitRecord(
        format=version,
        index=7,
        clip="a",
        key="0" * 32,
        status="ok",
        error=None,
        source="s",
        nbytes=12,
        crc32c={"visual/s1": ["0badcafe"]},
        max_abs={"visual/s1b01": 1.5},
    )


def test_the_rendering_of_a_commit_never_changes():
    assert golden_record(1).to_bytes() == GOLDEN
    assert golden_record(2).to_bytes() == SECOND


@given(commits)
def test_records_survive_their_rendering(record):
    assert CommitRecord.from_bytes(record.to_bytes()) == record


def test_every_single_flipped_bit_is_found():
    for position in range(len(GOLDEN) * 8):
        flipped = bytearray(GOLDEN)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match=r"."):
            CommitRecord.from_bytes(bytes(flipped))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"digest":' * 50_000,
        GOLDEN[:-1],
        GOLDEN + b"\n",
        GOLDEN.replace(b":", b": "),
        GOLDEN.replace(b'"index":7', b'"index":7.0'),
        GOLDEN.replace(b'"index":7', b'"index":-7'),
        GOLDEN.replace(b'"index":7', b'"index":1e999'),
        GOLDEN.replace(b'"index":7', b'"extra":1,"index":7'),
        GOLDEN.replace(b'"format":1', b'"format":2'),
        GOLDEN.replace(b"0badcafe", b"0badcaf"),
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        CommitRecord.from_bytes(data)


@given(st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        CommitRecord.from_bytes(data)


def test_layers_survive_their_model():
    for layer in LAYERS:
        assert LayerModel.model_validate(layer.to_json()).to_layer() == layer


def test_a_layer_with_another_s_name_is_refused():
    with pytest.raises(ValueError, match=r"layer visual/s1b01 is called '../x'"):
        LayerModel.model_validate({**LAYERS[0].to_json(), "name": "../x"}).to_layer()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("tokens", "width", "stage", "block")
        for value in (0, -1, 2**31, 1.0, "1", None, math.nan)
        if (field, value) != ("block", 0)  # the patch embedding's output
    ],
)
def test_sizes_that_no_layer_has_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        LayerModel.model_validate({**LAYERS[0].to_json(), field: value})


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_can_be_recorded(modality):
    assert LayerModel.model_validate({**LAYERS[0].to_json(), "modality": modality}).modality == modality
