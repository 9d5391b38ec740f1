"""A store of another key: what differs is named, and what can be done about just that."""

from dataclasses import replace

import pytest

from mettle_cache.errors import StoreKeyError
from mettle_cache.pipelines.extract.other_key import other_key_explained
from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import make_spec, write_store

SOUND = "first channel at its own rate"


def key(rules, sound_files=None):
    preprocessing = {"rate": 16000, **({"sound_files": sound_files} if sound_files else {})}
    return {"decode": {"video": {"pixels": rules}}, "backbones": {"audio": {"preprocessing": preprocessing}}}


def refusal(path, old, new):
    write_store(path, old)
    with pytest.raises(StoreKeyError) as caught, other_key_explained(path, new):
        StoreWriter.create_or_resume(path, new)
    return caught.value


def test_a_store_of_other_rules_of_decoding_is_not_said_to_lack_an_option(tmp_path):
    error = refusal(tmp_path / "s.zarr", make_spec(key=key("old")), make_spec(key=key("new", SOUND)))
    assert 'extraction.decode.video.pixels: "old" -> "new"' in error.message
    assert "another version of mettle-cache" in error.hint
    assert "can be read, trained from and verified" in error.hint
    assert "give the options" not in error.hint
    # by itself it would be refused as well
    assert "--audio" not in error.hint


@pytest.mark.parametrize(
    ("old", "new", "audio"), [(None, SOUND, "--audio shared=mean"), (SOUND, None, "--audio shared ")]
)
def test_sound_heard_in_another_way_names_the_option(tmp_path, old, new, audio):
    error = refusal(tmp_path / "s.zarr", make_spec(key=key("a", old)), make_spec(key=key("a", new)))
    assert audio in error.hint
    assert "another version" not in error.hint


def test_other_annotations_are_called_so(tmp_path):
    old = make_spec()
    error = refusal(tmp_path / "s.zarr", old, replace(old, samples=old.samples.slice(1)))
    assert "the annotations in --root are others" in error.hint
    assert "give the options" in error.hint
