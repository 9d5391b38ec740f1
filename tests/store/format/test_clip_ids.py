"""Ids of clips: what is taken and what is refused, by a writer and by a reader."""

import pytest

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.clip_ids import clip_ids_bytes, id_problems, read_clip_ids
from mettle_cache.store.format.digests import digest


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ("", "must have 1 to 256 characters, not 0"),
        ("x" * 10_000_000, "must have 1 to 256 characters, not 10000000"),
        ("../x", "leads out of its folder"),
        ("a/../x", "leads out of its folder"),
        ("/etc/passwd", "leads out of its folder"),
        ("C:\\x", "backslash"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("known", "are the same or look the same"),
        ("ｋnown", "are the same or look the same"),  # full-width k
    ],
)
def test_hostile_ids_are_refused(clip, message):
    problems = list(id_problems(["known", clip]))
    assert len(problems) == 1
    assert message in problems[0]
    assert len(problems[0]) < 200


@pytest.mark.parametrize("clip", ["-0AbC_dEf12", "s4/male/xyz.mp4", "été", "a..b", "音"])
def test_ids_of_real_data_sets_are_taken(clip):
    assert list(id_problems([clip])) == []


@pytest.mark.parametrize("clip", ["a\x1b[31m", "a\u202eb", "a\nb", "../x", "x" * 257, ""])
def test_hostile_ids_are_refused_in_a_store_too(tmp_path, clip):
    data = clip_ids_bytes(["known", clip])
    (tmp_path / "clips.json").write_bytes(data)
    with pytest.raises(StoreCorruptError, match="clip id ") as caught:
        read_clip_ids(tmp_path, count=2, expected=digest(data))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("data", [b'["a",1]', b'["a",["b"]]', b'["a"]', b'{"a":"b"}', b'["a","\\ud8"]', b'["a",,"b"]'])
def test_what_is_no_list_of_two_ids_is_refused(tmp_path, data):
    (tmp_path / "clips.json").write_bytes(data)
    with pytest.raises(StoreCorruptError, match=r"clips\.json"):
        read_clip_ids(tmp_path, count=2, expected=digest(data))
