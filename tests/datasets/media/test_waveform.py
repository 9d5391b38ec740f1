from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.signal
import soundfile

from mettle_cache.datasets.media import waveform
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.fault import MediaFileError

TEN_SECONDS = 320_000


def _tone(rate: int, seconds: float = 10.0, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_must_be_finite(bad: float) -> None:
    samples = np.zeros(10, np.float32)
    assert waveform.require_finite(Path("a.npy"), samples) is samples
    samples[7] = bad
    with pytest.raises(MediaFileError, match=r"a.npy: holds samples that are not finite numbers"):
        waveform.require_finite(Path("a.npy"), samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_wav_files_are_read_at_their_own_rate(tmp_path: Path, subtype: str) -> None:
    tone = _tone(16_000)
    soundfile.write(tmp_path / "a.wav", tone, 16_000, subtype=subtype)
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert (rate, samples.dtype, samples.shape) == (16_000, np.float32, tone.shape)
    assert np.abs(samples - tone).max() < (0.02 if subtype == "ULAW" else 1e-4)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = _tone(16_000), _tone(16_000, pitch=660)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(waveform.read_sound_file(tmp_path / "a.wav")[0], (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("subtype", "rate"),
    [("GSM610", 8_000), ("IMA_ADPCM", 16_000), ("MS_ADPCM", 16_000), ("G721_32", 8_000), ("NMS_ADPCM_24", 8_000),
     ("PCM_U8", 16_000), ("ALAW", 16_000), ("DOUBLE", 16_000), ("PCM_32", 16_000)],
)  # fmt: skip
def test_rare_codecs_are_read_whole(tmp_path: Path, subtype: str, rate: int) -> None:
    tone = _tone(rate, seconds=2)
    soundfile.write(tmp_path / "a.wav", tone, rate, subtype=subtype)
    samples, found = waveform.read_sound_file(tmp_path / "a.wav")
    assert found == rate
    assert 0 <= len(samples) - len(tone) < 600  # blocks are filled up
    # each of them lags by less than two milliseconds
    lag = int(np.argmax(np.correlate(samples[1000:5020], tone[1000:5000])))
    assert np.abs(samples[1000 + lag : 5000 + lag] - tone[1000:5000]).max() < 0.2
    waveform.check_sound_file(tmp_path / "a.wav")


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)])
def test_content_counts_and_not_the_name(tmp_path: Path, container: str, subtype: str | None) -> None:
    tone = _tone(16_000, seconds=2)
    soundfile.write(tmp_path / "a.wav", tone, 16_000, format=container, subtype=subtype)
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert (rate, len(samples)) == (16_000, len(tone))
    assert np.abs(samples[1000:-1000] - tone[1000:-1000]).max() < 0.05


def _flac_of_unknown_length(path: Path, samples: np.ndarray) -> None:
    """As an encoder writes it to a pipe: 36 bits of the first block are the number of samples, 0 if unknown."""
    soundfile.write(path, samples, 16_000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)


def test_a_flac_file_that_does_not_tell_its_length_is_read_whole(tmp_path: Path) -> None:
    integers = np.random.default_rng(0).integers(-9000, 9000, (40_000, 2), np.int16)
    _flac_of_unknown_length(tmp_path / "a.flac", integers)
    samples, rate = waveform.read_sound_file(tmp_path / "a.flac")
    assert rate == 16_000
    np.testing.assert_allclose(samples, integers.mean(axis=1) / 32_768, atol=1e-7)
    waveform.check_sound_file(tmp_path / "a.flac")


def test_a_flac_file_that_holds_more_than_it_tells_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(40_000), 16_000)
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes() + b"TAG" + bytes(125))
    assert len(waveform.read_sound_file(tmp_path / "a.flac")[0]) == 40_000
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[22:26] = (30_000).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(
        MediaFileError, match=r"a.flac: has a damaged header: it promises 30000 samples, 40\d+ are there"
    ):
        waveform.read_sound_file(tmp_path / "a.flac")


def test_mp3_inside_wav_is_read(tmp_path: Path) -> None:
    tone = _tone(16_000, seconds=2)
    soundfile.write(tmp_path / "a.mp3", tone, 16_000, format="MP3")
    with av.open(str(tmp_path / "a.mp3")) as source, av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert rate == 16_000
    assert abs(len(samples) - len(tone)) < 3000


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("W64", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("NIST", "PCM_16"),
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
    ],
)
def test_what_is_cut_off_is_refused(tmp_path: Path, container: str, subtype: str | None, keep: float) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(80_000)
    soundfile.write(tmp_path / "a.wav", noise, 16_000, format=container, subtype=subtype)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(MediaFileError, match=r"a.wav: (is cut off|cannot be decoded: .*lost sync)"):
        waveform.read_sound_file(tmp_path / "a.wav")


@pytest.mark.parametrize("container", ["CAF", "NIST", "AIFF", "RF64"])
def test_kinds_that_show_a_lost_end_are_read(tmp_path: Path, container: str) -> None:
    tone = _tone(16_000, seconds=1)
    soundfile.write(tmp_path / "a.wav", tone, 16_000, format=container, subtype="PCM_16")
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert rate == 16_000
    np.testing.assert_allclose(samples, tone, atol=1e-4)


def test_a_caf_file_whose_samples_go_on_to_its_end(tmp_path: Path) -> None:
    """As it is written to a pipe: -1 for the length."""
    tone = _tone(16_000, seconds=1)
    soundfile.write(tmp_path / "a.caf", tone, 16_000)
    content = bytearray((tmp_path / "a.caf").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 8] = b"\xff" * 8
    (tmp_path / "a.caf").write_bytes(content)
    samples, _ = waveform.read_sound_file(tmp_path / "a.caf")
    np.testing.assert_allclose(samples[: len(tone)], tone, atol=1e-4)


@pytest.mark.parametrize("container", ["VOC", "SVX", "PVF", "MAT5", "IRCAM", "PAF"])
def test_kinds_that_do_not_show_a_lost_end_are_refused(tmp_path: Path, container: str) -> None:
    soundfile.write(tmp_path / "a.wav", _tone(8_000, seconds=1), 8_000, format=container, subtype="PCM_16")
    with pytest.raises(MediaFileError, match=rf"a.wav: is a sound file of a kind \({container}\) that") as refused:
        waveform.read_sound_file(tmp_path / "a.wav")
    assert refused.value.hint == "convert it to WAV or FLAC"


@pytest.mark.parametrize("ending", ["au", "gsm", "snd", "vox", "mp3"])
def test_no_ending_makes_sound_of_other_bytes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"<html>Not found</html>" * 1500)
    with pytest.raises(MediaFileError, match=rf"a.{ending}: cannot be decoded: it is a web page"):
        waveform.read_sound_file(path)


def test_mp3_files_that_were_joined_are_refused(tmp_path: Path) -> None:
    """The header of the first tells of its own samples, and libsndfile reads no others."""
    soundfile.write(tmp_path / "a.mp3", _tone(16_000, seconds=2), 16_000)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content + b"TAG" + bytes(125))
    assert len(waveform.read_sound_file(tmp_path / "a.mp3")[0]) == 32_000
    (tmp_path / "a.mp3").write_bytes(content + content)
    with pytest.raises(MediaFileError, match=r"a.mp3: has a damaged header: it promises 32000 samples, 6\d+ are there"):
        waveform.read_sound_file(tmp_path / "a.mp3")


def test_sound_files_that_are_none_or_hold_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), 8_000)
    with pytest.raises(MediaFileError, match=r"nothing.wav: holds no samples"):
        waveform.read_sound_file(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(MediaFileError, match=r"text.wav: cannot be decoded: it is text \('hello'\)"):
        waveform.read_sound_file(tmp_path / "text.wav")


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))
    soundfile.write(os.fsencode(path), _tone(8_000), 8_000, format="WAV")
    assert len(waveform.read_sound_file(path)[0]) == 80_000


def test_what_a_recording_takes_is_asked_for(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((5000, 2)), 8_000)
    with allowed(Allowance(4 * 5000 * 2 - 1)), pytest.raises(MediaFileError, match=r"a.wav: takes .* to decode"):
        waveform.read_sound_file(tmp_path / "a.wav")
    _flac_of_unknown_length(tmp_path / "a.flac", np.zeros(100_000))
    with allowed(Allowance(8 * 100_000 - 1)), pytest.raises(MediaFileError, match=r"a.flac: takes .* to decode"):
        waveform.read_sound_file(tmp_path / "a.flac")
    with allowed(Allowance(1000)), pytest.raises(MediaFileError, match=r"a.wav: takes .* to decode"):
        waveform.resample(Path("a.wav"), np.zeros(64_000, np.float32), 1, 32_000)


@pytest.mark.slow
def test_no_sound_file_takes_more_than_a_clip_may(tmp_path: Path) -> None:
    """A file of 0.2 MB that holds an hour of silence."""
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 16_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(64):
            file.write(np.zeros(1_000_000, np.int16))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mettle_cache.datasets.media import waveform\n"
        "from mettle_cache.datasets.media.allowance import Allowance, allowed\n"
        "from mettle_cache.datasets.media.fault import MediaFileError\n"
        "waveform.resample(Path('a'), waveform.np.zeros(10, 'f4'), 16_000, 32_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for target in (16_000, 32_000):\n"
        "    try:\n"
        "        with allowed(Allowance()):\n"
        "            waveform.bring_to(Path('a'), *waveform.read_sound_file(Path(sys.argv[1])), target)\n"
        "    except MediaFileError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.wav")], capture_output=True, text=True, check=True
    )
    *said, taken = done.stdout.splitlines()
    assert "that a clip may take" in "".join(said)
    assert int(taken) < 1e9


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 32_000), (16_000, 32_000), (32_000, 16_000), (48_000, 32_000)])
def test_resampling_keeps_a_tone_and_agrees_with_another_resampler(rate: int, wanted: int) -> None:
    resampled = waveform.resample(Path("a.wav"), _tone(rate), rate, wanted)
    assert (resampled.shape, resampled.dtype) == ((10 * wanted,), np.float32)
    inner = slice(wanted, -wanted)  # both ring at the ends, each in its own way
    np.testing.assert_allclose(resampled[inner], _tone(wanted)[inner], atol=2e-5)
    other = scipy.signal.resample_poly(_tone(rate), wanted, rate)
    np.testing.assert_allclose(resampled[inner], other[inner], atol=2e-3)


def test_frequencies_that_the_new_rate_cannot_hold_are_removed() -> None:
    resampled = waveform.resample(Path("a.wav"), _tone(32_000, pitch=12_000), 32_000, 16_000)
    assert np.abs(resampled[16_000:-16_000]).max() < 1e-4


def test_the_wanted_rate_changes_nothing() -> None:
    tone = _tone(32_000)
    assert waveform.resample(Path("a.wav"), tone, 32_000, 32_000) is tone


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 32_000), (16_000, 32_000), (48_000, 16_000)])
def test_a_long_recording_is_resampled_in_pieces(rate: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 100_003).astype(np.float32)
    whole = waveform.resample(Path("a.wav"), noise, rate, wanted)
    monkeypatch.setattr(waveform, "_RESAMPLED_AT_ONCE", 10_000)
    pieces = waveform.resample(Path("a.wav"), noise, rate, wanted)
    assert pieces.shape == whole.shape
    # sums of some 70 products, in another order
    np.testing.assert_allclose(pieces, whole, atol=4e-6)


@pytest.mark.parametrize("rate", [31_999, 44_101, 2**31 - 1])
def test_a_rate_that_would_take_gigabytes_is_refused(rate: int) -> None:
    with pytest.raises(MediaFileError, match=rf"a.wav: has a rate of {rate} Hz, which cannot be brought to 32000 Hz"):
        waveform.resample(Path("a.wav"), np.zeros(10, np.float32), rate, 32_000)


@pytest.mark.parametrize(
    "samples",
    [
        18_000 * _tone(8_000),
        np.round(3 * _tone(8_000)),
        (np.round(18_000 * _tone(8_000)) + np.round(9_000 * _tone(8_000, pitch=660))) / 2,
        np.full(800, -16.5, np.float32),
    ],
)
def test_floats_with_the_range_of_integers_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(
        MediaFileError, match=r"a.wav: has samples of up to .*, where floats are from -1 to 1"
    ) as refused:
        waveform.bring_to(Path("a.wav"), samples.astype(np.float32), 8_000, 8_000)
    assert "32768" in str(refused.value.hint)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(800),
        np.full(800, 0.5),
        np.full(800, 1.0),
        np.sign(_tone(8_000)),
        2.6 * _tone(8_000),
        15 * _tone(8_000),
        1e-6 * _tone(8_000),
    ],
    ids=["silence", "a constant", "full scale", "a square", "lossy", "a mix in float", "very quiet"],
)
def test_what_floats_can_be_is_taken(samples: np.ndarray) -> None:
    samples = samples.astype(np.float32)
    np.testing.assert_array_equal(waveform.bring_to(Path("a.wav"), samples, 8_000, 8_000), samples)
