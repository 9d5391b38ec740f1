"""WAV and AIFF headers that are wrong, by hand: what other readers read whole is read whole, the rest is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mettle_cache.datasets.media import waveform
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.riff import check_riff

RATE = 16_000
SAMPLES = np.random.default_rng(0).integers(-9000, 9000, 3 * RATE, np.int16)
DATA = SAMPLES.astype("<i2").tobytes()


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def form(*, channels: int = 1, rate: int = RATE, flow: int = 2 * RATE, frame: int = 2, bits: int = 16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, flow, frame, bits))


def wav(*chunks: bytes, size: int | None = None, name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return name + struct.pack("<I", len(body) if size is None else size) + body


def ds64(size: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", size + 80, size, size // 2, 0))


TAGS = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"a program"))
EXTENSIBLE = chunk(
    b"fmt ",
    struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4)
    + bytes.fromhex("0100000000001000800000AA00389B71"),
)


def read(tmp_path: Path, content: bytes) -> np.ndarray:
    (tmp_path / "a.wav").write_bytes(content)
    waveform.check_sound_file(tmp_path / "a.wav")
    samples, rate = waveform.read_sound_file(tmp_path / "a.wav")
    assert rate == RATE
    return samples * 32_768


@pytest.mark.parametrize("whole", [0, 8, 0x7FFFF024, 2**31 - 1, 0x80000024, 2**32 - 1, None])
@pytest.mark.parametrize("data", [0, 0x7FFFF000, 0x7FFFEFFC, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 37, None])
def test_a_size_that_was_not_known_when_it_was_written(tmp_path: Path, whole: int | None, data: int | None) -> None:
    np.testing.assert_array_equal(read(tmp_path, wav(form(), chunk(b"data", DATA, data), size=whole)), SAMPLES)


@pytest.mark.parametrize("off", [-44, -8, -4, -1, 1, 2, 8, 44, 80])
def test_a_size_that_is_off_by_a_header(tmp_path: Path, off: int) -> None:
    content = wav(form(), chunk(b"data", DATA))
    np.testing.assert_array_equal(
        read(tmp_path, content[:4] + struct.pack("<I", len(content) - 8 + off) + content[8:]), SAMPLES
    )
    for whole in (None, len(content) - 8 + off):
        samples = read(tmp_path, wav(form(), chunk(b"data", DATA, len(DATA) + off), size=whole))
        np.testing.assert_array_equal(samples, SAMPLES[: len(samples)])
        assert len(SAMPLES) - len(samples) == max(0, -off + 1) // 2


@pytest.mark.parametrize(
    "content",
    [
        wav(form(), chunk(b"data", DATA), TAGS),
        wav(form(), chunk(b"data", DATA), TAGS)[:-6],
        wav(chunk(b"JUNK", bytes(28)), form(), chunk(b"data", DATA)),
        wav(TAGS, form(), chunk(b"odd ", b"abc"), chunk(b"FLLR", bytes(4044)), chunk(b"data", DATA)),
        wav(EXTENSIBLE, chunk(b"fact", b"abcd"), chunk(b"data", DATA)),
        wav(ds64(len(DATA)), form(), chunk(b"data", DATA, 2**32 - 1), size=2**32 - 1, name=b"RF64"),
        wav(ds64(len(DATA)), form(), chunk(b"data", DATA, 2**32 - 1), size=2**32 - 1, name=b"BW64"),
        wav(form(), chunk(b"data", DATA)) + b"\x12\x93" * 500,
        wav(form(), chunk(b"data", DATA)) + b"TAG" + bytes(125),
        wav(form(), chunk(b"data", DATA), bytes(512)),
        wav(form(), chunk(b"data", DATA), size=36),
        wav(form(frame=4), chunk(b"data", DATA)),
        wav(form(flow=4 * RATE, frame=4), chunk(b"data", DATA)),
        wav(form(flow=0), chunk(b"data", DATA)),
    ],
    ids=["tags after", "tags after, cut off", "junk first", "much before", "extensible", "RF64", "BW64", "appended",
         "ID3v1", "zeros after", "size of the header alone", "frame wrong", "stereo", "no bytes a second"],
)  # fmt: skip
def test_what_other_readers_read_whole_is_read_whole(tmp_path: Path, content: bytes) -> None:
    np.testing.assert_array_equal(read(tmp_path, content), SAMPLES)


@pytest.mark.parametrize("samples", [SAMPLES.astype("<i4") << 8, SAMPLES.astype("<i4") << 16, SAMPLES.astype("<f4")])
def test_24_bits_in_4_bytes_that_readers_take_for_one_thing_or_another(tmp_path: Path, samples: np.ndarray) -> None:
    content = wav(form(flow=4 * RATE, frame=4, bits=24), chunk(b"data", samples.tobytes()))
    with pytest.raises(MediaFileError, match="damaged header: 1 channels of 24 bits in 4 bytes"):
        read(tmp_path, content)


def test_an_odd_number_of_bytes_without_its_pad_byte(tmp_path: Path) -> None:
    content = b"RIFF\0\0\0\0WAVE" + form() + b"data" + struct.pack("<I", len(DATA) + 1) + DATA + b"\1" + TAGS
    np.testing.assert_array_equal(
        read(tmp_path, content[:4] + struct.pack("<I", len(content) - 8) + content[8:]), SAMPLES
    )


@pytest.mark.parametrize("keep", [44, 60, 1000, len(DATA) // 2, len(DATA) - 200])
@pytest.mark.parametrize("name", [b"RIFF", b"RF64"])
def test_what_is_cut_off_is_refused(tmp_path: Path, keep: int, name: bytes) -> None:
    wide = [ds64(len(DATA))] if name == b"RF64" else []
    content = wav(*wide, form(), chunk(b"data", DATA, 2**32 - 1 if wide else None), name=name)
    with pytest.raises(
        MediaFileError, match=r"a.wav: (is cut off: its header promises 96000 bytes|holds no|cannot be)"
    ):
        read(tmp_path, content[:keep])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (wav(form(), chunk(b"data", DATA, len(DATA) // 2)), "is no other chunk"),
        (wav(form(), chunk(b"data", DATA, 3 * len(DATA))), r"the file is whole, yet promises 288000 .* not 96000"),
        (wav(form(), chunk(b"data", DATA, 2**31 + len(DATA))), "the file is whole, yet promises"),
        (wav(form(), chunk(b"data", DATA), chunk(b"data", DATA)), "has its samples in several chunks"),
        (wav(form(), chunk(b"data", DATA), TAGS, chunk(b"data", DATA)), "has its samples in several chunks"),
        (wav(form(channels=3), chunk(b"data", DATA)), "damaged header: 3 channels of 16 bits in 2 bytes"),
        (wav(form(flow=3 * RATE, frame=3), chunk(b"data", DATA)), "damaged header: 1 channels of 16 bits in 3 bytes"),
        (wav(form(flow=4 * RATE, frame=4, bits=20), chunk(b"data", DATA)), "1 channels of 20 bits in 4 bytes"),
        (wav(form(rate=RATE + 512), chunk(b"data", DATA)), "16512 Hz by one entry, 16000 Hz by another"),
        (wav(form(), chunk(b"data", b"")), "holds no samples"),
        (wav(form(), chunk(b"data", b""), TAGS), "holds no samples"),
        (wav(form(), chunk(b"data", b"", 2**32 - 1)), "holds no samples"),
        (wav(form()), "cannot be decoded"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(MediaFileError, match=f"a.wav: .*{what}"):
        read(tmp_path, content)


@pytest.mark.parametrize("bit", range(32))
@pytest.mark.parametrize("tail", [b"", TAGS])
def test_no_flipped_bit_of_a_size_changes_the_length_unseen(tmp_path: Path, bit: int, tail: bytes) -> None:
    for at in (4, 40):
        content = bytearray(wav(form(), chunk(b"data", DATA), tail))
        content[at + bit // 8] ^= 1 << bit % 8
        try:
            samples = read(tmp_path, bytes(content))
        except MediaFileError:
            continue
        assert abs(len(samples) - len(SAMPLES)) <= 64
        np.testing.assert_array_equal(samples[: len(SAMPLES)], SAMPLES[: len(samples)])


@pytest.mark.parametrize(("container", "endian"), [("AIFF", "FILE"), ("WAV", "BIG")])
def test_big_endian_files(tmp_path: Path, container: str, endian: str) -> None:
    soundfile.write(tmp_path / "b.wav", SAMPLES, RATE, format=container, endian=endian, subtype="PCM_16")
    content = (tmp_path / "b.wav").read_bytes()
    np.testing.assert_array_equal(read(tmp_path, content), SAMPLES)
    with pytest.raises(MediaFileError, match="is cut off"):
        read(tmp_path, content[: len(content) // 2])


def test_many_chunks_are_not_walked_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(chunk(b"JUNK", b"") * 100_000, form(), chunk(b"data", DATA)))
    check_riff(tmp_path / "a.wav", (tmp_path / "a.wav").stat().st_size)
