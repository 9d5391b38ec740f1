"""What a store may be asked for, and the key that tells two requests apart."""

import dataclasses

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.store.format.digests import canonical_json, digest_of
from mettle_cache.store.format.spec import key_differences
from tests.store.tiny import LAYERS, make_spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segments": 0}, "segments must be at least 1, not 0"),
        ({"layers": ()}, "no layers"),
        ({"layers": (*LAYERS, LAYERS[0])}, "two layers have the same name"),
        (
            {"layers": (LAYERS[0], dataclasses.replace(LAYERS[1], width=6))},
            "visual/s1 differ in tokens, width or cells",
        ),
        ({"samples": pa.table({"id": ["clip-0"]})}, "samples have no column 'clip'"),
        ({"samples": pa.table({"clip": ["clip-9", "clip-0"]})}, "clips that are not stored: clip-9"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        make_spec(**fields)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(make_spec(), segments=0, clips=("clip-0", "clip-0"))
    assert len(caught.value.problems) == 3


def test_a_store_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="no clips"):
        dataclasses.replace(make_spec(), clips=(), samples=pa.table({"clip": pa.array([], pa.string())}))


def test_an_unknown_codec_is_refused():
    with pytest.raises(UsageError, match="no codec is called 'zip'"):
        make_spec("zip")


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "other"},
        {"segments": 3},
        {"codec": "int4"},
        {"layers": LAYERS[1:]},
        {"vocabulary": {"categories": ["Bark"]}},
        {"key": {"visual": {"weights": "abd", "size": 192}, "decode": {"fps": 1}}},
        {"samples": pa.table({"clip": ["clip-0"]})},
    ],
)
def test_whatever_changes_bytes_changes_the_key(fields):
    assert digest_of(make_spec(**fields).key_document()) != digest_of(make_spec().key_document())


def test_the_order_of_clips_is_in_the_key():
    spec = make_spec()
    assert dataclasses.replace(spec, clips=spec.clips[::-1]).key_document() != spec.key_document()


def test_provenance_does_not_change_the_key():
    assert make_spec(provenance={"command": "other"}).key_document() == make_spec().key_document()


def test_a_later_version_of_a_codec_is_in_the_key():
    assert "codec_version" not in make_spec("int8").key_document()
    assert make_spec("int4").key_document()["codec_version"] == 2


def test_differences_name_every_field_that_differs():
    new = make_spec(key={"visual": {"weights": "xyz", "size": 192}, "fps": 2}, segments=3)
    assert key_differences(make_spec().key_document(), new.key_document()) == [
        "segments: 2 -> 3",
        "extraction.decode.fps: 1 -> (absent)",
        'extraction.visual.weights: "abc" -> "xyz"',
        "extraction.fps: (absent) -> 2",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from([0.0, 1.5, -0.0]) | st.text("abc", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)


names = st.text("abc", min_size=1, max_size=2)


@given(old=st.dictionaries(names, json_values, max_size=3), new=st.dictionaries(names, json_values, max_size=3))
@settings(max_examples=40)
def test_keys_are_equal_exactly_when_nothing_differs(old, new):
    assert (canonical_json(old) == canonical_json(new)) == (
        not key_differences(old, new) and not key_differences(new, old)
    )


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})


def test_binary_columns_are_in_the_key():
    def key(*values):
        samples = pa.table({"clip": ["clip-0"] * len(values), "motion": pa.array(values, pa.binary())})
        return canonical_json(make_spec(samples=samples).key_document())

    assert len({key(b"\x00\xff", None), key(b"\x00\xfe", None), key(None, b"\x00\xff"), key(None, None)}) == 4
    assert key(b"\x00\xff", None) == key(b"\x00\xff", None)


def test_lists_of_binary_values_are_in_the_key():
    def key(*masks):
        samples = pa.table({"clip": ["clip-0"], "masks": pa.array([masks], pa.list_(pa.binary()))})
        return canonical_json(make_spec(samples=samples).key_document())

    assert len({key(b"\x00", b"\xff"), key(b"\xff", b"\x00"), key(b"\x00\xff"), key()}) == 4
