from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mettle_cache.datasets.media import soundtrack
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import Piece, lay_out, load_video_audio
from tests.datasets.media.containers import KINDS, burst_times, bursts, whole_video, write_video

RATE = 10_000
CLIP = Path("clip.mp4")


def _pieces(starts: list[float | None], length: int = 200) -> list[Piece]:
    """Pieces of 20 ms that begin at ``starts`` and hold 1, 2, 3, ... throughout."""
    return [Piece(np.full(length, number + 1, np.float32), start) for number, start in enumerate(starts)]


def _packed(pieces: list[Piece]) -> np.ndarray:
    return np.concatenate([piece.samples for piece in pieces])


def test_pieces_that_follow_one_another() -> None:
    pieces = _pieces([0.02 * number for number in range(50)])
    np.testing.assert_array_equal(lay_out(CLIP, pieces, RATE), _packed(pieces))


@pytest.mark.parametrize("gap", [0.02, 0.0654, 0.4, 7.0])
@pytest.mark.parametrize("at", [1, 20, 30])
def test_a_gap_is_silence_of_its_length(gap: float, at: int) -> None:
    pieces = _pieces([0.02 * number + gap * (number >= at) for number in range(50)])
    packed = _packed(pieces)
    expected = np.concatenate([packed[: 200 * at], np.zeros(round(gap * RATE)), packed[200 * at :]])
    np.testing.assert_array_equal(lay_out(CLIP, pieces, RATE), expected)


def test_several_gaps_add_up() -> None:
    starts = [0.02 * number + 0.03 * (number // 10) for number in range(50)]
    track = lay_out(CLIP, _pieces(starts), RATE)
    for number, start in enumerate(starts):
        at = round(start * RATE)
        assert (track[at : at + 200] == number + 1).all()
    assert (track == 0).sum() == 4 * 300


@pytest.mark.parametrize("trembling", [0.0005, 0.005, 0.02])
def test_time_stamps_that_tremble_move_nothing(trembling: float) -> None:
    rng = np.random.default_rng(1)
    noise = rng.uniform(-trembling, trembling, 50)
    noise[0] = 0
    pieces = _pieces([0.02 * number + float(noise[number]) for number in range(50)])
    np.testing.assert_array_equal(lay_out(CLIP, pieces, RATE), _packed(pieces))


@pytest.mark.parametrize("wrong", [-3.0, -0.2, 0.2, 3.0, 1e6])
def test_one_wrong_time_stamp_moves_nothing(wrong: float) -> None:
    starts = [0.02 * number for number in range(50)]
    starts[20] += wrong
    pieces = _pieces(starts)
    np.testing.assert_array_equal(lay_out(CLIP, pieces, RATE), _packed(pieces))


def test_pieces_without_a_time_stamp_follow_the_one_before() -> None:
    starts: list[float | None] = [0.02 * number + 0.5 * (number >= 20) for number in range(50)]
    starts[5] = starts[21] = starts[49] = None
    track = lay_out(CLIP, _pieces(starts), RATE)
    expected = lay_out(CLIP, _pieces([0.02 * number + 0.5 * (number >= 20) for number in range(50)]), RATE)
    np.testing.assert_array_equal(track, expected)
    nothing_known = _pieces([None] * 5)
    np.testing.assert_array_equal(lay_out(CLIP, nothing_known, RATE), _packed(nothing_known))


def test_the_beginning_of_a_piece_that_overlaps_is_dropped() -> None:
    pieces = _pieces([0.02 * number - 0.15 * (number >= 20) for number in range(50)])
    track = lay_out(CLIP, pieces, RATE)
    packed = _packed(pieces)
    np.testing.assert_array_equal(track, np.concatenate([packed[:4000], packed[5500:]]))


def test_a_late_start_is_silence_and_what_is_before_the_start_is_dropped() -> None:
    late = _pieces([0.5 + 0.02 * number for number in range(20)])
    np.testing.assert_array_equal(lay_out(CLIP, late, RATE), np.concatenate([np.zeros(5000), _packed(late)]))
    early = _pieces([-0.05 + 0.02 * number for number in range(20)])
    np.testing.assert_array_equal(lay_out(CLIP, early, RATE), _packed(early)[500:])


def test_sound_that_time_stamps_leave_no_room_for() -> None:
    pieces = _pieces([0.02 * number - 2 * (number >= 200) for number in range(400)])
    with pytest.raises(MediaFileError, match=r"clip.mp4: has time stamps that leave no room for 2.0 s of its sound"):
        lay_out(CLIP, pieces, RATE)


def test_a_jump_of_hours_takes_no_memory() -> None:
    pieces = _pieces([0.02 * number + 7200 * (number >= 20) for number in range(50)])
    with (
        allowed(Allowance(10_000)),
        pytest.raises(MediaFileError, match=r"clip.mp4: has time stamps that put its sound at 72"),
    ):
        lay_out(CLIP, pieces, RATE)


def test_a_gap_that_takes_more_than_a_clip_may() -> None:
    pieces = _pieces([0.02 * number + 600 * (number >= 20) for number in range(50)])
    with allowed(Allowance(10_000_000)), pytest.raises(MediaFileError, match=r"takes 0\.\d GB of memory"):
        lay_out(CLIP, pieces, RATE)


def _without(*holes: tuple[float, float]) -> Callable[[av.Packet], av.Packet | None]:
    """Lose the packets of sound within the seconds of each hole."""

    def edit(packet: av.Packet) -> av.Packet | None:
        at = packet.pts * packet.time_base
        lost = packet.stream.type == "audio" and any(start <= at < end for start, end in holes)
        return None if lost else packet

    return edit


def _whole(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"clip{KINDS[kind].suffix}"
    path.write_bytes(whole_video(kind))
    return path


def _shown(path: Path) -> list[float]:
    return burst_times(*load_video_audio(path))


@pytest.mark.parametrize("kind", ["mp4", "fragments", "mkv", "mkv-aac", "webm", "live", "ts", "flv", "mpg"])
def test_lost_packets_leave_everything_else_in_its_time(tmp_path: Path, kind: str) -> None:
    whole = _shown(_whole(tmp_path, kind))
    holes = ((2.5, 2.6), (4.6, 5.55), (7.4, 9.6))
    path = write_video(tmp_path / f"clip{KINDS[kind].suffix}", KINDS[kind], edit=_without(*holes))
    heard = [time for time in whole if not any(start - 0.1 < time < end + 0.1 for start, end in holes[1:])]
    assert len(heard) == 7
    assert _shown(path) == pytest.approx(heard, abs=0.002)


def _by_ffmpeg(path: Path, rate: int) -> np.ndarray:
    """The track as FFmpeg's filter lays it out: ``aresample=async=1:first_pts=0``."""
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_abuffer(template=container.streams.audio[0])
        resample = graph.add("aresample", "async=1:first_pts=0")
        form = graph.add("aformat", f"sample_fmts=fltp:sample_rates={rate}:channel_layouts=mono")
        sink = graph.add("abuffersink")
        for before, after in ((source, resample), (resample, form), (form, sink)):
            before.link_to(after)
        graph.configure()
        pieces = []
        for frame in [*container.decode(audio=0), None]:
            graph.push(frame)
            while True:
                try:
                    pieces.append(graph.pull().to_ndarray()[0])
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    return np.concatenate(pieces)


def test_ffmpeg_s_filter_agrees(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", KINDS["mkv"], edit=_without((2.6, 3.0), (5.0, 7.1)))
    samples, rate = load_video_audio(path)
    assert burst_times(samples, rate) == pytest.approx([0.2, 1.2, 2.2, 3.2, 4.2, 7.2, 8.2, 9.2], abs=0.001)
    expected = _by_ffmpeg(path, rate)
    assert abs(len(samples) - len(expected)) <= 1
    assert burst_times(samples, rate) == pytest.approx(burst_times(expected, rate), abs=0.001)


@pytest.mark.parametrize("kind", ["mkv-aac", "webm", "flv", "ts", "avi"])
def test_rounded_time_stamps_leave_the_samples_as_they_are(tmp_path: Path, kind: str) -> None:
    path = _whole(tmp_path, kind)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    samples, _ = load_video_audio(path)
    plain = np.concatenate(frames, axis=1)[0]
    plain = plain / np.float32(32768) if plain.dtype == np.int16 else plain
    np.testing.assert_allclose(samples, plain, atol=1e-6)


def test_a_gap_at_the_end_of_a_track_that_says_its_length_is_not_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", KINDS["mp4"], edit=_without((3.0, 9.5)))
    assert _shown(path) == pytest.approx([0.2, 1.2, 2.2], abs=0.002)


def test_channels_that_change_on_the_way(tmp_path: Path) -> None:
    """As in a recorded broadcast: stereo follows mono in one transport stream."""
    kind, sound = KINDS["ts"], bursts(4, 16_000)

    def later(packet: av.Packet) -> av.Packet:
        # the first file's writer moved it by half a second, by which pictures are decoded before they are shown
        packet.pts += int(4.5 / packet.time_base)
        packet.dts += int(4.5 / packet.time_base)
        return packet

    first = write_video(tmp_path / "mono.ts", kind, seconds=4)
    second = write_video(tmp_path / "stereo.ts", kind, seconds=4, sound=np.concatenate([sound, sound]), edit=later)
    (tmp_path / "clip.ts").write_bytes(first.read_bytes() + second.read_bytes())
    times = _shown(tmp_path / "clip.ts")
    assert times[:4] == pytest.approx([0.264 + second for second in range(4)], abs=0.01)
    assert times[4:] == pytest.approx([4.264 + second for second in range(4)], abs=0.01)


def test_a_rate_that_changes_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mkv", KINDS["mkv"], seconds=1)
    decoded = soundtrack._decoded

    def faster(*arguments):
        for number, (frame, samples) in enumerate(decoded(*arguments)):
            frame.sample_rate = 16_000 if number < 3 else 48_000
            yield frame, samples

    monkeypatch.setattr(soundtrack, "_decoded", faster)
    with pytest.raises(MediaFileError, match="has sound whose rate changes from 16000 to 48000 Hz"):
        load_video_audio(path)


def test_what_is_collected_counts_as_memory_of_the_clip(tmp_path: Path) -> None:
    path = _whole(tmp_path, "mov")
    with allowed(Allowance(2 * 4 * 160_000 + 100_000)) as allowance:
        load_video_audio(path)
    assert allowance.taken >= 2 * 4 * 160_000
    with allowed(Allowance(500_000)), pytest.raises(MediaFileError, match=r"clip.mov: takes .* of memory"):
        load_video_audio(path)


@pytest.mark.parametrize("hours", [2, 20_000])
def test_a_lying_time_stamp_in_a_file(tmp_path: Path, hours: int) -> None:
    def late(packet: av.Packet) -> av.Packet:
        if packet.stream.type == "audio" and packet.pts * packet.time_base > 5:
            packet.pts += int(3600 * hours / packet.time_base)
            packet.dts = packet.pts
        return packet

    path = write_video(tmp_path / "clip.mkv", KINDS["mkv"], edit=late)
    with pytest.raises(MediaFileError, match=r"clip.mkv: has time stamps that put its sound at \d+ s"):
        load_video_audio(path)
