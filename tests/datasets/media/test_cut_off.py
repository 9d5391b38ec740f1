from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from mettle_cache.datasets.media import cut_off, mp4_boxes
from mettle_cache.datasets.media.cut_off import promised_seconds, refuse_cut_file
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import load_video_audio
from mettle_cache.datasets.media.video import load_video_frames
from tests.datasets.media.containers import KINDS, copy_packets, grey_number, whole_video

MIDDLES = [second + 0.5 for second in range(10)]


def _write(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"clip{KINDS[kind].suffix}"
    path.write_bytes(whole_video(kind))
    return path


def _box_starts(content: bytes, kind: bytes) -> list[int]:
    """Where the outermost boxes of a kind begin."""
    starts, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        starts += [at] if content[at + 4 : at + 8] == kind else []
        at += length
    return starts


def _box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


@pytest.mark.parametrize("kind", ["faststart", "fragments", "dash", "indexed", "mkv", "webm", "live", "avi"])
@pytest.mark.parametrize("share", [0.4, 0.75, 0.995])
def test_a_file_that_ends_within_a_part_is_cut_off(tmp_path: Path, kind: str, share: float) -> None:
    path = _write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for load in (lambda: load_video_frames(path, MIDDLES), lambda: load_video_audio(path)):
        with pytest.raises(
            MediaFileError, match=r"clip\.\w+: is cut off: its .* goes on to byte \d+, the file has \d+"
        ):
            load()


def test_the_segment_index_tells_of_fragments_that_are_lost(tmp_path: Path) -> None:
    path = _write(tmp_path, "indexed")
    content = path.read_bytes()
    path.write_bytes(content[: _box_starts(content, b"moof")[5]])
    with pytest.raises(MediaFileError, match=r"is cut off: its index \(sidx box\) goes on to byte \d+"):
        load_video_frames(path, MIDDLES)


def test_the_header_of_fragments_tells_how_long_they_are(tmp_path: Path) -> None:
    """A packager's mehd box in place of the one that FFmpeg does not write."""
    path = _write(tmp_path, "fragments")
    content = path.read_bytes()
    content = content[: _box_starts(content, b"moof")[5]]
    extends = content.index(b"mvex") - 4
    scale = int.from_bytes(content[content.index(b"mvhd") + 16 :][:4], "big")
    grown = _box(b"mehd", struct.pack(">II", 0, 10 * scale))
    bytes_ = bytearray(content[: extends + 8] + grown + content[extends + 8 :])
    for at in (extends, content.index(b"moov") - 4):
        bytes_[at : at + 4] = struct.pack(">I", int.from_bytes(bytes_[at : at + 4], "big") + len(grown))
    path.write_bytes(bytes_)
    assert promised_seconds(path) == 10
    for load in (lambda: load_video_frames(path, MIDDLES), lambda: load_video_audio(path)):
        with pytest.raises(MediaFileError, match=r"is cut off: it ends at [3-5].\d s of 10.0 s"):
            load()
    assert len(load_video_frames(path, MIDDLES[:4])) == 4


@pytest.mark.parametrize("kind", ["mkv", "webm", "flv"])
def test_a_file_whose_last_part_is_lost_but_whose_header_tells_how_long_it_is(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind)
    content = bytearray(path.read_bytes()[: path.stat().st_size // 2])
    if kind != "flv":  # lengths that are left open, as those of a stream, and an end between two blocks
        for element in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):
            at = content.rindex(element) + 4
            width = 9 - content[at].bit_length()
            content[at : at + width] = ((1 << 7 * width + 1) - 1).to_bytes(width, "big")
        ends = [end for end, _ in cut_off._element_ends(io.BytesIO(content), len(content))]
        content = content[: max(end for end in ends if end <= len(content))]
    path.write_bytes(content)
    for load in (lambda: load_video_frames(path, MIDDLES), lambda: load_video_audio(path)):
        with pytest.raises(MediaFileError, match=r"(is cut off: it ends at \d.\d s of 10.\d s|cannot be decoded)"):
            load()


def test_a_recording_that_promises_nothing_is_as_long_as_it_is(tmp_path: Path) -> None:
    path = _write(tmp_path, "ts")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shown = [grey_number(picture) for picture in load_video_frames(path, MIDDLES)]
    assert shown[:3] == [1, 5, 9]
    assert shown[6:] == [shown[-1]] * 4
    assert len(load_video_audio(path)[0]) < 8 * 16_000


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_an_avi_file_that_was_written_to_a_pipe(tmp_path: Path, length: int) -> None:
    path = _write(tmp_path, "avi")
    path.write_bytes(b"RIFF" + length.to_bytes(4, "little") + path.read_bytes()[8:])
    assert len(load_video_frames(path, MIDDLES)) == 10


@pytest.mark.parametrize("kind", ["mp4", "faststart", "fragments", "mkv"])
@pytest.mark.parametrize("padding", [b"\0" * 1000, b"\xff" * 7, b"junk of a camera" * 20])
def test_padding_after_the_last_part_is_no_part(tmp_path: Path, kind: str, padding: bytes) -> None:
    path = _write(tmp_path, kind)
    path.write_bytes(path.read_bytes() + padding)
    assert len(load_video_frames(path, MIDDLES)) == 10


@pytest.mark.parametrize("kind", ["mp4", "fragments", "mkv", "flv"])
@pytest.mark.parametrize("lost", ["audio", "video"])
def test_a_track_that_is_shorter_than_the_other_is_no_cut(tmp_path: Path, kind: str, lost: str) -> None:
    """Real clips end their sound or their pictures a little, or much, before the other."""
    path = copy_packets(
        tmp_path / f"clip{KINDS[kind].suffix}",
        kind,
        wanted=lambda packet: packet.stream.type != lost or packet.dts * packet.time_base <= 6,
    )
    shown = [grey_number(picture) for picture in load_video_frames(path, MIDDLES)]
    seconds = len(load_video_audio(path)[0]) / KINDS[kind].rate
    if lost == "audio":
        assert 5.4 < seconds < 6.2  # an FLV file starts its clock at 0.5 s
        assert shown[9] > shown[8]
    else:
        assert seconds == pytest.approx(10, abs=0.1)
        assert shown[9] == shown[7]


@pytest.mark.parametrize(
    "content",
    [
        _box(b"sidx"),
        _box(b"sidx", b"\1" + b"\xff" * 30),
        _box(b"sidx", bytes(22) + b"\xff\xff"),
        _box(b"moov", _box(b"mvhd") + _box(b"mvex", _box(b"mehd"))),
        _box(b"moov", _box(b"mvhd", bytes(100)) + _box(b"mvex", _box(b"mehd", bytes(8)))),
        _box(b"moov", _box(b"mvhd", b"\1" + bytes(100)) + _box(b"mvex", _box(b"mehd", b"\1" + bytes(4)))),
        struct.pack(">I4sQ", 1, b"free", 4),
        struct.pack(">I4s", 3, b"free"),
        b"\0\0\0",
        b"",
    ],
)
def test_boxes_that_make_no_sense_promise_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_box(b"ftyp", b"isom") + content)
    refuse_cut_file(path)
    assert promised_seconds(path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x80", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67", b"\x1a\x45\xdf\xa3\0"],
)
def test_segments_that_make_no_sense_promise_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mkv").write_bytes(content)
    refuse_cut_file(tmp_path / "clip.mkv")


def test_a_file_of_nothing_but_boxes_is_walked_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp4_boxes, "MOST_BOXES", 10)
    (tmp_path / "clip.mp4").write_bytes(_box(b"free") * 20 + struct.pack(">I4s", 1000, b"mdat"))
    refuse_cut_file(tmp_path / "clip.mp4")
