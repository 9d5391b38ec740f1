"""Media that are not those that a store was made of: refused by name, or extracted again, and never mixed in."""

import hashlib
import os
import shutil
import struct

import numpy as np
import pytest
import soundfile

from mettle_cache.datasets import MediaDataset, open_dataset
from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import DatasetError, StoreSourcesError, StoreUnfinishedError
from mettle_cache.pipelines.extract import sources
from mettle_cache.pipelines.extract.memory import FOLDER_VARIABLE
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.store.format.commit_log import read_log
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.writer import StoreWriter
from tests.pipelines.extraction import tiny, tree, write_clips


def last(root, out, **changes):
    return tiny(root, out, audio="shared", layers="last:1", **changes)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Four clips, two of them an .mp4, and the store that they make."""
    root = write_clips(tmp_path_factory.mktemp("refresh") / "AVE", train=2)
    extract(last(root, root.parent / "s.zarr"))
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "AVE")


@pytest.fixture
def out(original, tmp_path):
    return shutil.copytree(original.parent / "s.zarr", tmp_path / "s.zarr")


@pytest.fixture(scope="module")
def changed_bytes(original, change, tmp_path_factory):
    """What a new extraction makes of the media when clips 0 and 2 have changed."""
    folder = tmp_path_factory.mktemp("changed")
    root = shutil.copytree(original, folder / "AVE")
    change(root, 0)
    change(root, 2)
    extract(last(root, folder / "s.zarr"))
    return tree(folder / "s.zarr")


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled as soon as they are written, so that what a test writes can be remembered."""
    monkeypatch.setattr(sources, "TICK_NANOSECONDS", -1_000_000_000)


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A computer that remembers nothing yet."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "memory"))
    return tmp_path / "memory"


@pytest.fixture(scope="module")
def change(original):
    """``change(root, number)``: replace what is heard, and of a video all of it; returns the clip's id."""
    write_demo_ave(original.parent / "donors", train=2, val=1, test=1, seed=8, layout="mixed")
    donors = {clip.audio.suffix: clip.audio for clip in open_dataset("ave", original.parent / "donors").clips}

    def change(root, number):
        clip = open_dataset("ave", root).clips[number]
        shutil.copyfile(donors[clip.audio.suffix], clip.audio)
        return clip.id

    return change


def digest_by_hand(clip):
    """FORMAT.md, section 6, for a folder of as many pictures as segments, or a video."""
    paths = [*sorted(clip.frames.iterdir()), clip.audio] if clip.frames.is_dir() else [clip.audio]
    contents = [path.read_bytes() for path in paths]
    return hashlib.blake2b(
        b"".join(struct.pack("<Q", len(data)) + data for data in contents), digest_size=16
    ).hexdigest()


def times(store):
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def test_changed_media_are_named_and_refused_and_nothing_is_touched(change, root, out):
    changed = [change(root, number) for number in (0, 2)]
    before = times(out)
    with pytest.raises(StoreSourcesError, match="2 of 4 clips") as caught:
        extract(last(root, out))
    others = {clip.id for clip in open_dataset("ave", root).clips} - set(changed)
    assert all(clip in caught.value.message for clip in changed)
    assert not any(clip in caught.value.message for clip in others)
    assert "--refresh" in caught.value.hint
    assert times(out) == before


def test_refresh_extracts_just_those_and_gives_the_bytes_of_a_new_extraction(change, root, out, changed_bytes):
    change(root, 0)
    change(root, 2)
    before = times(out)
    report = extract(last(root, out, refresh=True))
    assert (report.written, report.skipped, report.ok, report.finished) == (2, 2, True, True)
    assert any("extracted again: 2" in note for note in report.notes)
    assert tree(out) == changed_bytes
    kept = [path for path in before if path.name.startswith(("00000001", "00000003", "c.1.", "c.3."))]
    assert len(kept) == 2 * (1 + 2)
    assert {path: times(out)[path] for path in kept} == {path: before[path] for path in kept}
    metadata = load_metadata(out)
    records = [line.record for shard in metadata.shards for line in read_log(metadata, shard)]
    assert [record.source for record in records] == [digest_by_hand(clip) for clip in open_dataset("ave", root).clips]
    # and now they are those of the store
    assert extract(last(root, out)).written == 0


def test_a_part_that_comes_after_a_change_is_refused(change, root, tmp_path, changed_bytes):
    out = tmp_path / "parts.zarr"
    extract(last(root, out, part=(0, 2)))
    clip = change(root, 0)
    change(root, 2)
    with pytest.raises(StoreSourcesError, match=f"1 of 2 clips[^$]*{clip}"):
        extract(last(root, out, part=(1, 2)))
    # asked for, it makes its own clips, and withdraws those of the other part rather than finish a mixed store
    report = extract(last(root, out, part=(1, 2), refresh=True))
    assert (report.written, report.pending, report.finished) == (2, 1, False)
    with pytest.raises(StoreUnfinishedError):
        TokenStore.open(out)
    report = extract(last(root, out, part=(0, 2)))
    assert (report.written, report.finished) == (1, True)
    assert tree(out) == changed_bytes


class Killed(BaseException):
    """What no code of ours catches."""


def test_a_refresh_that_dies_leaves_an_unfinished_store_that_a_plain_run_completes(
    change, root, out, changed_bytes, monkeypatch
):
    change(root, 0)
    change(root, 2)
    whole = StoreWriter.write_clip

    def dies(self, index, tokens, *, source):
        if index == 2:
            raise Killed
        return whole(self, index, tokens, source=source)

    monkeypatch.setattr(StoreWriter, "write_clip", dies)
    with pytest.raises(Killed):
        extract(last(root, out, refresh=True))
    report = verify_store(out)
    assert (report.finished, report.problems) == (False, ())
    monkeypatch.undo()
    assert extract(last(root, out)).written == report.pending >= 1
    assert tree(out) == changed_bytes


@pytest.mark.usefixtures("settled")
def test_files_that_only_look_otherwise_are_read_once_and_remembered(root, out, memory, monkeypatch):
    read = []
    whole = MediaDataset.source_digest
    monkeypatch.setattr(MediaDataset, "source_digest", lambda self, clip: read.append(clip.id) or whole(self, clip))
    assert extract(last(root, out)).written == 0
    assert len(read) == 4  # nothing was remembered of this root
    assert extract(last(root, out)).written == 0
    assert len(read) == 4
    touched = open_dataset("ave", root).clips[1]
    os.utime(touched.audio)
    assert extract(last(root, out)).written == 0
    assert read[4:] == [touched.id]
    assert extract(last(root, out)).written == 0
    assert len(read) == 5


@pytest.mark.usefixtures("settled", "memory")
def test_another_content_of_the_same_size_and_time_is_found(root, out):
    extract(last(root, out))
    clip = next(clip for clip in open_dataset("ave", root).clips if clip.audio.suffix == ".wav")
    samples, rate = soundfile.read(clip.audio, dtype="int16")
    then = clip.audio.stat()
    soundfile.write(clip.audio, np.roll(samples, 1, axis=0), rate, subtype="PCM_16")
    os.utime(clip.audio, ns=(then.st_atime_ns, then.st_mtime_ns))
    now = clip.audio.stat()
    assert (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    with pytest.raises(StoreSourcesError, match=clip.id):
        extract(last(root, out))


@pytest.mark.usefixtures("settled", "memory")
def test_another_root_is_compared_by_content_and_named(change, root, tmp_path):
    out, other = tmp_path / "s.zarr", tmp_path / "copy"
    shutil.copytree(root, other)
    extract(last(root, out))
    report = extract(last(other, out))
    assert report.written == 0
    (note,) = [note for note in report.notes if "last seen in" in note]
    assert str(root) in note
    assert "the same in" in note
    clip = change(other, 0)
    third = shutil.copytree(other, tmp_path / "third")
    with pytest.raises(StoreSourcesError, match=f"last seen in ({root}|{other}):[^$]*{clip}"):
        extract(last(third, out))


@pytest.mark.parametrize("gone", [("frames",), ("AVE",), ("AVE", "frames", "wave")])
def test_media_may_be_deleted_all_or_in_part(root, out, gone):
    for folder in gone:
        shutil.rmtree(root / folder)
    report = extract(last(root, out, refresh=True))
    assert (report.written, report.skipped, report.ok) == (0, 4, True)
    assert any(f"to be compared: {2 * min(len(gone), 2)}" in note for note in report.notes)


def test_media_that_broke_since_are_named_and_never_cost_a_good_clip(root, out):
    clip = next(clip for clip in open_dataset("ave", root).clips if clip.audio.suffix == ".wav")
    clip.audio.write_bytes(b"")
    before = times(out)
    with pytest.raises(StoreSourcesError, match=rf"{clip.id}: wave/{clip.id}.wav: is empty"):
        extract(last(root, out))
    with pytest.raises(DatasetError, match="1 of 1 clips"):
        extract(last(root, out, refresh=True))
    assert times(out) == before


def test_a_clip_whose_files_change_while_they_are_read_fails_and_is_extracted_by_the_next_run(
    root, tmp_path, original, monkeypatch
):
    out = tmp_path / "new.zarr"
    victim = open_dataset("ave", root).clips[1].id
    whole = MediaDataset.load_recording

    def load_recording(self, clip, sample_rate):
        recording = whole(self, clip, sample_rate)
        if clip.id == victim:
            os.utime(clip.audio, ns=(1, 1))
        return recording

    monkeypatch.setattr(MediaDataset, "load_recording", load_recording)
    report = extract(last(root, out))
    assert list(report.failures) == [victim]
    assert "changed while they were read" in report.failures[victim]
    monkeypatch.undo()
    assert extract(last(root, out)).written == 1
    assert tree(out) == tree(original.parent / "s.zarr")


def test_without_a_memory_media_are_read(change, root, out, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file"))
    assert extract(last(root, out)).written == 0
    clip = change(root, 0)
    with pytest.raises(StoreSourcesError, match=clip):
        extract(last(root, out))


def test_a_clip_that_failed_is_tried_by_every_run(root, tmp_path, original):
    out = tmp_path / "new.zarr"
    clip = next(clip for clip in open_dataset("ave", root).clips if clip.frames.is_dir())
    picture = sorted(clip.frames.iterdir())[4]
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    assert list(extract(last(root, out)).failures) == [clip.id]
    picture.write_bytes(content)
    assert extract(last(root, out)).written == 1
    assert tree(out) == tree(original.parent / "s.zarr")
