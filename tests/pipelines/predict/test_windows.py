"""Windows of a long video against the data set's own decoders, which read a file whole."""

import struct

import numpy as np
import pytest

from mettle_cache.datasets.media import video
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import load_video_audio, stream_video_audio
from mettle_cache.datasets.media.video import load_video_frames
from mettle_cache.datasets.protocol import SPREAD, PictureRule
from mettle_cache.pipelines.predict.media import find_media
from mettle_cache.pipelines.predict.windows import ClipForm, open_windows, plan_windows
from tests.datasets.media.containers import KINDS, Kind, bursts, write_video

FORM = ClipForm(10, 10, SPREAD)
PHONE = Kind(".mp4", rate=44_100)


def turn(path):
    """Write a quarter turn into the track header of the video, as phones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    matrix = (round(value * 65536) for value in (0, 1, 0, -1, 0, 0, 0, 0))
    content[at : at + 36] = struct.pack(">9i", *matrix, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def phone_video(tmp_path_factory):
    """23 s upright, of a camera that lay on its side, with two channels at 44.1 kHz."""
    sound = np.concatenate([bursts(23, 44_100) / 8, np.zeros((1, 23 * 44_100), np.float32)])
    return turn(
        write_video(tmp_path_factory.mktemp("phone") / "IMG_0001.MP4", PHONE, seconds=23, sound=sound, picture=grey)
    )


def grey(number):
    """Other pictures throughout half a minute."""
    return np.full((32, 48, 3), 16 + 2 * number, np.uint8)


def windows_of(path, form=FORM, **options):
    (item,) = find_media([path])
    plan = plan_windows(item, form, **options)
    return plan, [(w.start, w.fresh, w.pictures(), w.hear(44_100)) for w in open_windows(plan, form)]


def test_windows_of_a_long_video_hold_what_the_data_set_reads_there(phone_video):
    plan, windows = windows_of(phone_video)
    assert (plan.starts, plan.total, plan.whole) == ((0, 10, 13), 23, False)
    assert [(start, fresh) for start, fresh, *_ in windows] == [(0, 0), (10, 0), (13, 7)]
    pictures = load_video_frames(phone_video, [second + 0.5 for second in range(23)])
    track, rate = load_video_audio(phone_video)
    track = np.pad(track, (0, 24 * rate - len(track)))
    for start, _, seen, heard in windows:
        assert seen[0].shape == (48, 32, 3)
        assert all(np.array_equal(a, b) for a, b in zip(seen, pictures[start : start + 10], strict=True))
        np.testing.assert_array_equal(heard, track[start * rate : (start + 10) * rate])


@pytest.mark.parametrize("kind", ["mp4", "mkv-aac", "webm", "avi", "ts", "mpg"])
def test_a_track_that_is_streamed_is_the_one_that_is_loaded(kind, tmp_path):
    path = write_video(tmp_path / f"clip{KINDS[kind].suffix}", KINDS[kind], seconds=4.4)
    track, rate = load_video_audio(path)
    seconds = list(stream_video_audio(path))
    assert {len(samples) for samples, _ in seconds[:-1]} == {rate}
    np.testing.assert_array_equal(np.concatenate([samples for samples, _ in seconds]), track)


def test_no_more_is_decoded_than_the_window_needs(phone_video, monkeypatch):
    decoded = []
    to_rgb = video._rgb
    monkeypatch.setattr(video, "_rgb", lambda *given: decoded.append(1) or to_rgb(*given))
    (item,) = find_media([phone_video])
    windows = open_windows(plan_windows(item, FORM), FORM)
    next(windows)
    assert len(decoded) == 10
    next(windows)
    assert len(decoded) == 20


@pytest.mark.parametrize(
    ("seconds", "starts"), [(10.0, (0,)), (10.75, (0,)), (11, (0, 1)), (4, (0,)), (20.25, (0, 10)), (12.5, (0, 3))]
)
def test_where_windows_begin(seconds, starts, tmp_path):
    (item,) = find_media([write_video(tmp_path / "clip.mp4", KINDS["mp4"], seconds=seconds, picture=grey)])
    plan = plan_windows(item, FORM)
    assert plan.starts == starts
    assert plan.total == min(int(seconds + 0.5), starts[-1] + 10)
    assert plan_windows(item, FORM, one_clip=True).starts == (0,)


def test_seconds_of_a_clip_that_lasts_longer_are_spread_over_it(tmp_path):
    path = write_video(tmp_path / "minute.mp4", KINDS["mp4"], seconds=21, picture=grey)
    plan, ((_, _, pictures, _),) = windows_of(path, ClipForm(3, 3, PictureRule(longer=True)))
    assert plan.whole
    # one picture a second, of which the first, the middle and the last are taken
    chosen = load_video_frames(path, [0.5, 10.5, 20.5])
    assert all(np.array_equal(a, b) for a, b in zip(pictures, chosen, strict=True))


def test_what_is_missing_is_named_or_filled(tmp_path, make_mute):
    mute = make_mute(tmp_path / "mute.mp4")
    with pytest.raises(MediaFileError, match="has no audio stream") as caught:
        windows_of(mute)
    assert "--fill-missing" in caught.value.hint
    plan, ((*_, heard),) = windows_of(mute, fill=True)
    assert plan.filled == "silence"
    assert len(heard) == 441_000
    assert not heard.any()
    with pytest.raises(MediaFileError, match="is missing"):
        windows_of(tmp_path / "nothing.mp4")


@pytest.fixture
def make_mute():
    import av

    def make(path):
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=4)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for _ in range(8):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
            out.mux(stream.encode(None))
        return path

    return make
