from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mettle_cache.datasets.media import mp4_boxes
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.mp4_boxes import refuse_absurd_counts
from mettle_cache.datasets.media.soundtrack import load_video_audio
from mettle_cache.datasets.media.video import load_video_frames
from tests.datasets.media.containers import KINDS, whole_video


def _with_count(kind: str, box: bytes, at: int, count: int) -> bytes:
    """A whole file, but for the count in the last box of a kind."""
    content = bytearray(whole_video(kind))
    start = content.rindex(box) + 4 + at
    content[start : start + 4] = struct.pack(">I", count)
    return bytes(content)


@pytest.mark.parametrize(("kind", "box", "at"), [("fragments", b"trun", 4), ("dash", b"trun", 4), ("mov", b"stsz", 8)])
def test_a_few_bytes_that_count_millions_of_samples(tmp_path: Path, kind: str, box: bytes, at: int) -> None:
    """FFmpeg would take 24 bytes for each: a file of 15 kilobytes, 6 gigabytes."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(_with_count(kind, box, at, 170_000_000))
    for read in (lambda: load_video_frames(path, [0.5]), lambda: load_video_audio(path)):
        with pytest.raises(
            MediaFileError, match=r"clip.mp4: is damaged: it counts samples that take \d+ bytes, it has"
        ):
            read()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].suffix in (".mp4", ".mov")])
def test_whole_files_count_what_they_have(tmp_path: Path, kind: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(whole_video(kind))
    refuse_absurd_counts(tmp_path / "clip.mp4")


def _box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_a_packed_header_that_would_unpack_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "clip.mov"
    path.write_bytes(_box(b"moov", _box(b"cmov", _box(b"dcom", b"zlib") + _box(b"cmvd", struct.pack(">I", 1 << 31)))))
    with pytest.raises(MediaFileError, match=r"clip.mov: has a packed header of 2147483648 bytes"):
        load_video_frames(path, [0.5])


def test_boxes_within_boxes_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = tmp_path / "clip.mp4", b""
    for _ in range(3000):
        content = _box(b"moov", content)
    path.write_bytes(content)
    refuse_absurd_counts(path)
    monkeypatch.setattr(mp4_boxes, "MOST_BOXES", 1000)
    with pytest.raises(MediaFileError, match=r"clip.mp4: consists of more than 1000 boxes"):
        refuse_absurd_counts(path)
