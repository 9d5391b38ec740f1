from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mettle_cache.datasets.media.container import measure
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import load_video_audio
from mettle_cache.datasets.media.video import load_video_frames
from tests.datasets.media.containers import KINDS, burst_times, grey_number, whole_video, write_video

MIDDLES = [second + 0.5 for second in range(10)]
# these start with the sound, a little before the first picture: its encoder's delay is heard
DELAYED = {"ts": 0.064, "flv": 0.023, "mpg": 0.03}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_container_is_read_whatever_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(whole_video(kind))
    delay = DELAYED.get(kind, 0)
    assert measure(path, "video") == pytest.approx(10 + delay, abs=0.3)
    assert measure(path, "audio") == pytest.approx(10 + delay, abs=0.1)
    shown = [grey_number(picture) for picture in load_video_frames(path, MIDDLES)]
    assert shown == [2 + 4 * second - (delay > 0) for second in range(10)]
    samples, rate = load_video_audio(path)
    assert rate == KINDS[kind].rate
    assert burst_times(samples, rate) == pytest.approx([0.2 + delay + second for second in range(10)], abs=0.002)


PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {secret}\n",
    "SDP": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" mimeType="video/mp4"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
    "IMF": "<AssetMap><Asset>{secret}</Asset></AssetMap>",
    "XSPF": "[playlist]\nFile1={secret}\n",
    "image2": "{secret}",
}


@pytest.mark.parametrize("kind", list(PLAYLISTS))
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
def test_a_playlist_in_disguise_opens_no_other_file(tmp_path: Path, kind: str, name: str) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(whole_video("mp4"))
    os.utime(secret, ns=(1, 1))  # where the file system keeps a time of access, reading moves it
    (tmp_path / name).write_text(PLAYLISTS[kind].format(secret=secret.name))
    for read in (lambda path: load_video_frames(path, MIDDLES), load_video_audio):
        with pytest.raises(MediaFileError, match=rf"{name}: cannot be decoded"):
            read(tmp_path / name)
    assert os.stat(secret).st_atime_ns == 1


def test_a_folder_whose_name_looks_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("http:")
    folder.mkdir()
    (folder / "a|b%d.mp4").write_bytes(whole_video("mp4"))
    assert len(load_video_frames(folder / "a|b%d.mp4", MIDDLES)) == 10


def _with_cover(path: Path, *, alone: bool) -> Path:
    """Downloaders put a picture of the video, or of the song, into the file as one more stream."""
    cover = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 250, np.uint8), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "rgb24", Fraction(1, 1)
    content = bytes(encoder.encode(cover)[0])
    whole = path.with_name(f"whole{path.suffix}")
    whole.write_bytes(whole_video("mp4"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        image = out.add_stream("png", rate=1)
        image.width, image.height, image.pix_fmt = 96, 64, "rgb24"
        image.disposition = av.stream.Disposition.attached_pic
        kept = [stream for stream in source.streams if not alone or stream.type == "audio"]
        copies = {stream.index: out.add_stream_from_template(stream) for stream in kept}
        packet = av.Packet(content)
        packet.stream, packet.pts, packet.dts, packet.time_base, packet.is_keyframe = image, 0, 0, Fraction(1, 1), True
        out.mux(packet)
        for packet in source.demux(kept):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return path


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    both = _with_cover(tmp_path / "both.mp4", alone=False)
    assert [grey_number(picture) for picture in load_video_frames(both, MIDDLES)][:3] == [2, 6, 10]
    song = _with_cover(tmp_path / "song.mp4", alone=True)
    assert len(load_video_audio(song)[0]) > 9 * 16_000
    with pytest.raises(MediaFileError, match=r"song.mp4: has no video stream"):
        load_video_frames(song, MIDDLES)


def test_a_picture_larger_than_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder itself is told the limit, before it takes memory for a picture."""
    path = write_video(tmp_path / "clip.mp4", KINDS["mp4"], seconds=1)
    content = bytearray(path.read_bytes())
    at = content.index(b"avc1") + 28
    content[at : at + 4] = bytes((0, 16, 0, 16))  # 16 x 16 in the track's header, 48 x 32 in the stream's
    path.write_bytes(content)
    monkeypatch.setattr("mettle_cache.datasets.media.container.MAX_PIXELS", 1000)
    with pytest.raises(MediaFileError, match=r"clip.mp4: (cannot be decoded|is 48 x 32: empty, or more than 1000)"):
        load_video_frames(path, [0.5])
