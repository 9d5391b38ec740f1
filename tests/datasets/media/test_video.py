from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mettle_cache.datasets.media import container, soundtrack, video
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError
from tests.datasets.media.containers import KINDS, grey_number, write_video

MIDDLES = [second + 0.5 for second in range(10)]


def _sound(rate: int, seconds: float = 10.0) -> np.ndarray:
    """A slow sweep, ``[1, n]``, so that a shift in time cannot hide."""
    t = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * t + 40 * t**2))).astype(np.float32)[None]


@pytest.mark.parametrize("fps", [1, 2, 3, 4, 5, Fraction(60, 13)])
def test_the_picture_shown_at_the_middle_of_each_second(make_video, fps) -> None:
    count = int(10 * fps) + 1
    shown = [grey_number(picture) for picture in video.load_video_frames(make_video(count=count, fps=fps), MIDDLES)]
    # picture k is shown from k / fps until (k + 1) / fps
    assert shown == [int(Fraction(time) * fps) for time in MIDDLES]


def test_a_short_video_repeats_its_last_picture(make_video) -> None:
    pictures = video.load_video_frames(make_video(count=10, fps=4), MIDDLES)
    assert [grey_number(picture) for picture in pictures] == [2, 6] + [9] * 8


def test_a_late_first_picture_stands_for_the_time_before_it(make_video) -> None:
    path = make_video(count=34, fps=4, sound=_sound(16_000), late_picture=1.5)
    pictures = video.load_video_frames(path, MIDDLES)
    assert [grey_number(picture) for picture in pictures] == [0] + [4 * second + 2 - 6 for second in range(1, 10)]


def _moved(path: Path, kind: str, seconds: float, *, after: float) -> Path:
    """Write a video whose pictures after a time have time stamps that are moved."""

    def move(packet: av.Packet) -> av.Packet:
        if packet.stream.type == "video" and packet.dts * packet.time_base >= after:
            packet.pts += int(seconds / packet.time_base)
            packet.dts += int(seconds / packet.time_base)
        return packet

    return write_video(path, KINDS[kind], edit=move)


def test_pictures_of_a_varying_rate(tmp_path: Path) -> None:
    """Nothing moved for three seconds: the picture before stays on the screen."""
    path = _moved(tmp_path / "clip.mkv", "mkv", 3, after=3)
    shown = [grey_number(picture) for picture in video.load_video_frames(path, MIDDLES)]
    assert shown[:3] == [2, 6, 10]
    assert len(set(shown[3:6])) == 1
    assert shown[7:] == [shown[7] + 4 * second for second in range(3)]


def test_time_stamps_that_jump_back(tmp_path: Path) -> None:
    """Two recordings in one file: what of the second would be shown, and when?"""
    first = write_video(tmp_path / "first.ts", KINDS["ts"], seconds=4)
    (tmp_path / "clip.ts").write_bytes(2 * first.read_bytes())
    with pytest.raises(MediaFileError, match=r"clip.ts: has time stamps that jump back by 3.\d s, at 3.\d s"):
        video.load_video_frames(tmp_path / "clip.ts", MIDDLES)
    assert len(video.load_video_frames(tmp_path / "clip.ts", MIDDLES[:3])) == 3


def test_pictures_count_as_memory_of_the_clip(make_video) -> None:
    """Ten that are kept, and 20 at 12 bits a pixel that the decoder may hold."""
    most = 10 * 3 * 32 * 48 + 20 * 32 * 48 * 3 // 2
    with allowed(Allowance(most)) as allowance:
        video.load_video_frames(make_video(), MIDDLES)
    assert allowance.taken == most
    with allowed(Allowance(most - 1)), pytest.raises(MediaFileError, match=r"clip.mp4: takes .* of memory"):
        video.load_video_frames(make_video(), MIDDLES)


def test_a_decoder_that_would_hold_too_much_is_refused_before_it_decodes(make_video) -> None:
    """190 kilobytes of blank pictures of 63 million pixels, 16 of which the next may refer to, took 2.4 GB."""
    held = 20 * 32 * 48 * 3 // 2
    with (
        allowed(Allowance(held - 1)) as allowance,
        pytest.raises(MediaFileError, match=r"clip.mp4: takes .* of memory"),
    ):
        video.load_video_frames(make_video(), MIDDLES)
    assert allowance.taken == 0


def test_pictures_are_rgb_of_the_video_s_own_size(make_video) -> None:
    picture = video.load_video_frames(make_video(), MIDDLES)[0]
    assert (picture.shape, picture.dtype) == ((32, 48, 3), np.uint8)
    assert abs(int(picture[..., 0].mean()) - int(picture[..., 2].mean())) <= 1


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_comes_back_in_step(make_video, rate) -> None:
    sound = _sound(rate)
    samples, got = soundtrack.load_video_audio(make_video(sound=sound, rate=rate))
    assert (got, samples.dtype, samples.ndim) == (rate, np.float32, 1)
    assert sound.shape[1] <= len(samples) <= sound.shape[1] + 2048
    inner = slice(rate, 9 * rate)
    assert np.corrcoef(samples[inner], sound[0, inner])[0, 1] > 0.99


def test_channels_are_averaged(make_video) -> None:
    left = _sound(44_100)
    samples, _ = soundtrack.load_video_audio(make_video(sound=np.concatenate([left, np.zeros_like(left)]), rate=44_100))
    inner = slice(44_100, 9 * 44_100)
    assert np.abs(samples[inner] - left[0, inner] / 2).max() < 0.05


def test_a_late_sound_track_starts_with_silence(make_video) -> None:
    path = make_video(sound=_sound(16_000, 8.0), late_sound=32_000)
    samples, rate = soundtrack.load_video_audio(path)
    assert len(samples) / rate == pytest.approx(10, abs=0.2)
    assert np.abs(samples[: int(1.9 * rate)]).max() < 1e-3
    expected = _sound(16_000, 8.0)[0]
    inner = slice(3 * rate, 9 * rate)
    assert np.corrcoef(samples[inner], expected[rate : 7 * rate])[0, 1] > 0.99


def test_a_missing_stream_is_named(make_video) -> None:
    with pytest.raises(MediaFileError, match=r"clip.mp4: has no audio stream"):
        soundtrack.load_video_audio(make_video())
    silent = make_video(count=0, sound=_sound(16_000))
    with pytest.raises(MediaFileError, match=r"clip.mp4: has no video stream"):
        video.load_video_frames(silent, MIDDLES)
    assert container.measure(silent, "audio") == pytest.approx(10, abs=0.1)
    with pytest.raises(MediaFileError, match="has no video stream"):
        container.measure(silent, "video")


@pytest.mark.parametrize("content", [b"\0", b"hello", b"\0" * 5000, b"\xff" * 5000])
def test_bytes_that_are_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    for read in (lambda path: video.load_video_frames(path, MIDDLES), soundtrack.load_video_audio):
        with pytest.raises(MediaFileError, match=r"a.mp4: cannot be decoded"):
            read(tmp_path / "a.mp4")


def test_a_file_of_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(MediaFileError, match=r"a.mp4: is empty \(0 bytes\)"):
        soundtrack.load_video_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_video_that_lost_its_index_cannot_be_decoded(make_video, share) -> None:
    path = make_video(sound=_sound(16_000))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(MediaFileError, match=r"clip.mp4: (is cut off: its mdat box|cannot be decoded)"):
        video.load_video_frames(path, MIDDLES)


def _cut_between_packets(path: Path, share: float) -> None:
    """Cut a file with its index in front where a packet starts, as an interrupted download rarely but quietly does."""
    with av.open(str(path)) as container:
        starts = sorted(packet.pos for packet in container.demux() if packet.pos)
    content = bytearray(path.read_bytes()[: starts[int(len(starts) * share)]])
    at = content.index(b"mdat")
    content[at - 4 : at] = bytes(4)  # the length is left open, so that only the header's durations tell
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_video_that_ends_before_its_header_says_is_cut_off(make_video, share) -> None:
    path = make_video(sound=_sound(16_000), front=True)
    _cut_between_packets(path, share)
    assert container.measure(path, "video") == 10  # its header is whole: only decoding tells
    with pytest.raises(MediaFileError, match=r"clip.mp4: is cut off: its audio ends at \d.\d s of 10.\d s"):
        soundtrack.load_video_audio(path)
    with pytest.raises(MediaFileError, match=r"clip.mp4: is cut off: its video ends at \d.\d s of 10.0 s"):
        video.load_video_frames(path, MIDDLES)


def test_a_video_cut_off_in_the_middle_of_a_picture(make_video) -> None:
    path = make_video(front=True)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(MediaFileError, match=r"clip.mp4: (is cut off|cannot be decoded|has a damaged picture)"):
        video.load_video_frames(path, MIDDLES)


def test_greys_are_converted_without_a_shift(tmp_path: Path) -> None:
    """The limited range of video to 0..255 by its definition, which some scaler settings miss by two levels."""
    luma = np.arange(16, 236)
    planes = np.full((330, 64), 128, np.uint8)
    planes[:220] = luma[:, None]
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    exact = (luma - 16) * 255 / 219
    np.testing.assert_allclose(video._rgb(tmp_path, frame)[:, 32, 1], exact, atol=0.5)


def test_a_picture_larger_than_the_limit_is_refused(make_video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_PIXELS", 1000)
    with pytest.raises(MediaFileError, match=r"clip.mp4: is 48 x 32: empty, or more than 1000 pixels"):
        video.load_video_frames(make_video(), MIDDLES)


def test_a_sound_track_longer_than_the_limit_is_refused(make_video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundtrack, "MAX_SAMPLES", 100_000)
    with pytest.raises(MediaFileError, match=r"clip.mp4: has a sound track of more than 100000 samples"):
        soundtrack.load_video_audio(make_video(sound=_sound(16_000)))


def test_a_playlist_in_disguise_opens_no_address(tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/secret.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n"
        for name, content in {"hls.mp4": playlist, "concat.mp4": f"ffconcat version 1.0\nfile {address}\n"}.items():
            (tmp_path / name).write_text(content)
            with pytest.raises(MediaFileError, match=rf"{name}: cannot be decoded"):
                soundtrack.load_video_audio(tmp_path / name)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert asked == []


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_videos_give_ten_pictures_or_an_error_that_names_the_file(mp4_root: Path, tmp_path: Path, data) -> None:
    content = bytearray(next((mp4_root / "AVE").glob("*.mp4")).read_bytes())
    # the index lies at the end; a quarter of the places fall anywhere
    tail = st.integers(len(content) - 3000, len(content) - 1)
    for place in data.draw(st.lists(tail | st.integers(0, len(content) - 1), min_size=1, max_size=12)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for read in (lambda: video.load_video_frames(path, MIDDLES), lambda: soundtrack.load_video_audio(path)):
        result, named = None, path
        try:
            result = read()
        except MediaFileError as error:
            named = error.path
        assert named == path
        assert result is None or len(result) in (10, 2)


def test_threads_decode_the_same_pixels_and_samples(mp4_root: Path) -> None:
    paths = sorted((mp4_root / "AVE").glob("*.mp4")) * 4

    def read(path: Path) -> tuple[bytes, bytes]:
        return np.stack(video.load_video_frames(path, MIDDLES)).tobytes(), soundtrack.load_video_audio(path)[
            0
        ].tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, paths)) == [read(path) for path in paths]
