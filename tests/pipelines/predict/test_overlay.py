"""Masks on videos: what is tinted, that the rest stays, and that the sound is kept as it was."""

from fractions import Fraction

import av
import numpy as np
import pytest

from mettle_cache.datasets.media.video import load_video_frames
from mettle_cache.datasets.protocol import SPREAD
from mettle_cache.pipelines.predict.media import find_media
from mettle_cache.pipelines.predict.overlay import TINT, _frame_rate, write_overlay
from mettle_cache.pipelines.predict.windows import ClipForm, plan_windows
from tests.datasets.media.containers import KINDS, Kind, write_video
from tests.pipelines.predict.test_windows import grey, turn

FORM = ClipForm(5, 1, SPREAD)


def left_half(second):
    mask = np.zeros((224, 224), bool)
    mask[:, :112] = second >= 2
    return mask


def overlay(source, path):
    (item,) = find_media([source])
    write_overlay(plan_windows(item, FORM), left_half, path)
    return path


def packets(path, kind):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def test_masks_lie_on_their_seconds_of_an_upright_video(tmp_path):
    source = turn(write_video(tmp_path / "phone.mp4", Kind(".mp4", rate=44_100), seconds=7, picture=grey))
    shown = overlay(source, tmp_path / "shown.mp4")
    times = [0.6, 1.9, 2.1, 6.4]
    for time, before, after in zip(
        times, load_video_frames(source, times), load_video_frames(shown, times), strict=True
    ):
        assert after.shape == before.shape == (48, 32, 3)
        expected = 0.45 * before[24, 8] + 0.55 * np.array(TINT) * 1.0 if time > 2 else before[24, 8]
        assert np.abs(after[24, 8] - expected).max() < 12
        assert np.abs(after[24, 24] - before[24, 24].astype(float)).max() < 6
    assert packets(shown, "audio") == packets(source, "audio")


def test_sound_that_an_mp4_cannot_hold_is_encoded_anew(tmp_path):
    source = write_video(tmp_path / "clip.mkv", KINDS["mkv"], seconds=5)
    with av.open(str(overlay(source, tmp_path / "shown.mp4"))) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        assert abs(float(container.duration) / av.time_base - 5) < 0.1


def slides(path, rate, size):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for _ in range(int(4 * rate)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((*size, 3), 90, np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_a_picture_has_a_usual_size(tmp_path):
    (item,) = find_media([slides(tmp_path / "large.mp4", Fraction(2), (720, 1922))])
    plan = plan_windows(item, FORM, fill=True)
    write_overlay(plan, lambda second: np.full((224, 224), second % 2 == 1), tmp_path / "shown.mp4")
    pictures = load_video_frames(tmp_path / "shown.mp4", [second + 0.5 for second in range(plan.total)])
    assert pictures[0].shape == (480, 1280, 3)
    assert [bool(picture[..., 0].mean() > 120) for picture in pictures] == [False, True, False, True]


@pytest.mark.parametrize(("rate", "shown"), [(Fraction(1, 2), 1), (Fraction(30000, 1001), Fraction(30000, 1001))])
def test_every_second_has_a_picture_for_its_mask(rate, shown, tmp_path):
    assert _frame_rate(slides(tmp_path / "slides.mp4", rate, (32, 48))) == shown
