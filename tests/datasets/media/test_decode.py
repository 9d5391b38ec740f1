from __future__ import annotations

import hashlib
import json
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from mettle_cache.datasets import Clip, open_dataset
from mettle_cache.datasets.media import decode
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError
from tests.datasets.media.containers import KINDS, burst_times, bursts, whole_video, write_video


def _copy_of_first(root: Path, to: Path) -> Clip:
    shutil.copytree(root, to)
    return open_dataset("ave", to).clips[0]


def test_wav_and_npy_of_the_same_sound_agree(frames_root: Path, tmp_path: Path) -> None:
    clip = open_dataset("ave", frames_root).clips[0]
    from_wav = decode.load_waveform(clip, 10, 32_000)
    np.save(tmp_path / "a.npy", from_wav)
    from_npy = decode.load_waveform(Clip("a", clip.frames, tmp_path / "a.npy"), 10, 32_000)
    np.testing.assert_array_equal(from_npy, from_wav)
    own_rate, rate = soundfile.read(clip.audio, dtype="float32")
    np.testing.assert_array_equal(decode.load_waveform(clip, 10, rate), own_rate)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_recording_with_a_value_that_is_not_finite(frames_root: Path, tmp_path: Path, bad: float) -> None:
    values = np.zeros(320_000)
    values[1234] = bad
    np.save(tmp_path / "a.npy", values)
    soundfile.write(tmp_path / "a.wav", np.stack([values, values], axis=1), 16_000, subtype="DOUBLE")
    clip = open_dataset("ave", frames_root).clips[0]
    for name in ("a.npy", "a.wav"):
        with pytest.raises(MediaFileError, match=rf"{name}: holds samples that are not finite numbers"):
            decode.load_waveform(Clip("a", clip.frames, tmp_path / name), 10, 32_000)


@pytest.mark.parametrize("layout", ["frames_root", "mp4_root"])
def test_the_digest_is_of_the_content_that_is_used(layout: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    original = decode.source_digest(open_dataset("ave", root).clips[0], 10)
    clip = _copy_of_first(root, tmp_path / "moved")
    assert decode.source_digest(clip, 10) == original
    assert len(original) == 32
    assert int(original, 16) >= 0

    content = bytearray(clip.audio.read_bytes())
    content[len(content) // 2] ^= 1
    clip.audio.write_bytes(content)
    assert decode.source_digest(clip, 10) != original


def test_every_picture_in_use_counts_and_no_other(frames_root: Path, tmp_path: Path) -> None:
    clip = _copy_of_first(frames_root, tmp_path / "copy")
    original = decode.source_digest(clip, 2)
    (clip.frames / "00000005.jpg").write_bytes(b"not used with two segments")
    assert decode.source_digest(clip, 2) == original
    for name in ("00000001.jpg", "00000010.jpg"):
        before = (clip.frames / name).read_bytes()
        (clip.frames / name).write_bytes(before + b"\0")
        assert decode.source_digest(clip, 2) != original
        (clip.frames / name).write_bytes(before)
    assert decode.source_digest(clip, 2) == original


@pytest.mark.parametrize("layout", ["frames_root", "mp4_root"])
def test_the_digest_is_that_of_the_source_files_by_hand(layout: str, request: pytest.FixtureRequest) -> None:
    dataset = open_dataset("ave", request.getfixturevalue(layout))
    clip = dataset.clips[0]
    by_hand = hashlib.blake2b(digest_size=16)
    for path in dataset.source_files(clip):
        content = path.read_bytes()
        by_hand.update(struct.pack("<Q", len(content)) + content)
    assert dataset.source_digest(clip) == by_hand.hexdigest()
    expected = [*sorted(clip.frames.iterdir()), clip.audio] if clip.frames.is_dir() else [clip.audio]
    assert list(dataset.source_files(clip)) == expected


def test_bytes_that_move_from_one_file_to_the_next_change_the_digest(tmp_path: Path) -> None:
    def digest(first: bytes, second: bytes) -> str:
        (tmp_path / "1.jpg").write_bytes(first)
        (tmp_path / "a.wav").write_bytes(second)
        return decode.source_digest(Clip("a", tmp_path, tmp_path / "a.wav"), 1)

    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_a_digest_of_a_missing_file_is_an_error(frames_root: Path, tmp_path: Path) -> None:
    clip = _copy_of_first(frames_root, tmp_path / "copy")
    clip.audio.unlink()
    with pytest.raises(MediaFileError, match=r"wav: is missing"):
        decode.source_digest(clip, 10)


def test_the_policy_is_json_about_the_kinds_in_use_and_nothing_of_the_machine(
    frames_root: Path, mp4_root: Path, tmp_path: Path
) -> None:
    frames, mp4 = (open_dataset("ave", root).decode_policy for root in (frames_root, mp4_root))
    for policy in (frames, mp4):
        assert json.loads(json.dumps(policy)) == policy
        assert str(frames_root.parent.parent) not in json.dumps(policy)
    assert "pictures" in frames
    assert "wav" in frames
    assert "video" not in frames
    assert "video" in mp4
    assert "pictures" not in mp4
    assert frames["places"] == {"frames": ["frames/{id}/*.jpg"], "audio": ["wave/{id}.wav"]}

    moved = tmp_path / "elsewhere" / "AVE"
    shutil.copytree(frames_root, moved)
    assert open_dataset("ave", moved).decode_policy == frames


@pytest.mark.parametrize(("kind", "name"), [("mp4", "a.wav"), ("mp4", "a.m4a"), ("mkv", "a.WAV"), ("ts", "a.mp3")])
def test_sound_in_a_container_is_read_whatever_its_name(
    frames_root: Path, tmp_path: Path, kind: str, name: str
) -> None:
    frames = open_dataset("ave", frames_root).clips[0].frames
    source = tmp_path / f"whole{KINDS[kind].suffix}"
    source.write_bytes(whole_video(kind))
    clip = Clip("a", frames, source.rename(tmp_path / name))
    samples = decode.load_waveform(clip, 10, 16_000)
    delay = 0.064 if kind == "ts" else 0
    assert burst_times(samples, 16_000) == pytest.approx([0.2 + delay + second for second in range(10)], abs=0.003)
    assert decode.check_audio(clip, 10, deep=True) == []
    assert decode.source_digest(clip, 10)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "CAF"])
@pytest.mark.parametrize("name", ["a.m4a", "a.wma", "a.mp4"])
def test_sound_files_are_read_whatever_their_name(tmp_path: Path, container: str, name: str) -> None:
    soundfile.write(tmp_path / "a.wav", bursts(10, 16_000)[0], 16_000, format=container)
    clip = Clip("a", tmp_path, (tmp_path / "a.wav").rename(tmp_path / name))
    samples = decode.load_waveform(clip, 10, 16_000)
    assert burst_times(samples, 16_000) == pytest.approx([0.2 + second for second in range(10)], abs=0.003)
    assert decode.check_audio(clip, 10, deep=True) == []
    assert decode.load_recording(clip, 10, 8_000).rate == 16_000


@pytest.mark.parametrize("name", ["a.aac", "a.mp3", "a.wav"])
def test_a_tag_before_frames_of_aac_makes_no_mp3_of_them(tmp_path: Path, name: str) -> None:
    """As segments of a live stream have it."""
    with av.open(str(tmp_path / "a.adts"), "w", format="adts") as out:
        stream = out.add_stream("aac", rate=16_000, layout="mono")
        for at in range(0, 32_000, 1024):
            block = bursts(10, 16_000)[:, at : at + 1024]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, at, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    tag = b"ID3\4\0\0" + bytes((0, 0, 1, 2)) + bytes(130)
    (tmp_path / name).write_bytes(tag + (tmp_path / "a.adts").read_bytes())
    samples = decode.load_waveform(Clip("a", tmp_path, tmp_path / name), 2, 16_000)
    assert burst_times(samples, 16_000) == pytest.approx([0.264, 1.264], abs=0.003)  # its encoder's delay is heard


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html><body>Sign in", r"cannot be decoded: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", r"cannot be decoded: it is a git-lfs pointer"),
        (b"PK\3\4" + bytes(100), r"cannot be decoded: it is a zip archive"),
        (b"\xff\xd8\xff\xe0" + bytes(100), r"cannot be decoded: it is a JPEG"),
        (b"ERROR: Video unavailable\n", r"cannot be decoded: it is text \('ERROR: Video unavailable'\)"),
        (b'{"error": 404}', r"cannot be decoded: it is a JSON document"),
        (bytes(5000), r"cannot be decoded: it is all zeros at its start"),
        (b"", r"is empty \(0 bytes\)"),
    ],
)
def test_what_is_no_video_is_named_for_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    clip = Clip("a", path, path)
    for check in (
        lambda: decode.check_frames(clip, 10, deep=True),
        lambda: decode.check_audio(clip, 10, deep=True),
        lambda: decode.load_frames(clip, 10),
        lambda: decode.load_waveform(clip, 10, 16_000),
    ):
        with pytest.raises(MediaFileError, match=rf"a.mp4: {what}"):
            check()


@pytest.mark.parametrize("kind", ["mp4", "fragments", "live", "avi", "ts"])
def test_tracks_that_end_before_the_clip_does_are_remarked(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / f"a{KINDS[kind].suffix}", KINDS[kind], seconds=6)
    clip = Clip("a", path, path)
    (pictures,), (sound,) = decode.check_frames(clip, 10, deep=True), decode.check_audio(clip, 10, deep=True)
    assert (pictures.what, pictures.value) == ("have a video that ends before their 10 s are over", "6 s")
    assert pictures.then == "its last picture stands for the rest"
    assert (sound.what, sound.value) == ("have a sound track that ends before their 10 s are over", "6 s")
    assert decode.check_frames(clip, 6, deep=True) == decode.check_audio(clip, 7, deep=True) == []


def test_a_clip_is_decoded_within_its_allowance(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(whole_video("mp4"))
    clip = Clip("a", path, path)
    with allowed(Allowance(20_000)), pytest.raises(MediaFileError, match=r"a.mp4: takes .* of memory"):
        decode.load_frames(clip, 10)
    with allowed(Allowance(20_000)), pytest.raises(MediaFileError, match=r"a.mp4: takes .* of memory"):
        decode.load_waveform(clip, 10, 16_000)
