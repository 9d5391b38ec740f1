"""Before ``READY`` is written, every clip that this very writer did not write is read back."""

import pytest

from mettle_cache.store import StoreWriter, TokenStore, verify_store
from tests.store.tiny import clip_tokens, contents, make_spec, source, write_store

SHARD = "visual/s1/c.0.0.0"


def flip(file):
    """In the middle of the first clip of a shard of two."""
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)


def write(writer, *clips):
    for clip in clips:
        writer.write_clip(clip, clip_tokens(clip), source=source(clip))


@pytest.fixture
def half(path):
    """Two clips of four, one of them damaged since, without a change of its size."""
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        write(writer, 0, 1)
    flip(path / SHARD)
    return path


def test_a_run_that_seals_a_store_finds_damage_and_lists_the_clip(half, uninterrupted):
    with StoreWriter.create_or_resume(half, make_spec()) as writer:
        assert writer.pending() == [0, 2, 3]
        write(writer, 0, 2, 3)
        assert writer.unread_before_sealing() == []
        assert writer.finish().finished
    assert contents(half) == uninterrupted


def test_the_part_that_comes_last_reads_what_the_others_wrote(half, uninterrupted):
    with StoreWriter.create_or_resume(half, make_spec()) as writer:
        assert writer.pending((1, 2)) == [2, 3]
        write(writer, 2, 3)
        assert writer.unread_before_sealing() == [0, 1]
        assert writer.finish().pending == 1
    assert not (half / "READY").exists()
    assert write_store(half).finished
    assert contents(half) == uninterrupted


def test_damage_says_where_it_is(half):
    with StoreWriter.create_or_resume(half, make_spec()) as writer:
        (problem,) = writer.read_back([0, 1])[0]
    assert str(problem) == f"clip clip-0, visual/s1b02: {SHARD}: the tokens are not those that were committed"
    assert verify_store(half, deep=True).state == "unfinished"


def test_clips_that_another_process_of_this_run_wrote_are_taken(half):
    with StoreWriter.create_or_resume(half, make_spec()) as writer:
        writer.trust(0)
        assert writer.unread() == [1]


def test_a_finished_store_is_not_read_again(path, monkeypatch):
    write_store(path)
    monkeypatch.setattr("mettle_cache.store.writing.writer.byte_problems", lambda *_: pytest.fail("read"))
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert writer.pending() == []
        assert writer.finish().finished


def test_a_clip_that_fails_again_for_the_same_reason_changes_nothing(path):
    write_store(path, failed=[1])
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}
    write_store(path, failed=[1])
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()} == before
    assert TokenStore.open(path).failed == {"clip-1": "no such video"}
