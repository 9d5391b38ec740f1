"""Ids of clips: what is taken and what is refused, by a writer and by a reader."""

import pytest

from mettle_cache.store.format.clip_ids import id_problems


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
