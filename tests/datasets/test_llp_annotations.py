from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.datasets.llp_annotations import CATEGORIES, Event, Video, read_columns, read_events, read_videos
from mettle_cache.datasets.textfile import Problems

NAME = "_b-defghij3_101.8_111.8"
EVENT_HEADER = "filename\tonset\toffset\tevent_labels"


def _read(text: str, reader: Callable[..., object]) -> tuple[object, Problems]:
    problems = Problems()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.csv"
        path.write_bytes(text.encode())
        return reader(path, problems=problems), problems


def _videos(*rows: str, header: str = "filename\tevent_labels") -> tuple[object, Problems]:
    return _read("\n".join([header, *rows]) + "\n", read_videos)


def _events(*rows: str, header: str = EVENT_HEADER) -> tuple[object, Problems]:
    return _read("\n".join([header, *rows]) + "\n", lambda path, problems: read_events(path, {NAME: None}, problems))


def test_a_video_s_media_are_named_by_eleven_characters() -> None:
    videos, problems = _videos(f"{NAME}\tSpeech,Frying_(food)")
    assert videos == [Video(NAME, ("Speech", "Frying_(food)"))]
    assert videos[0].clip == "_b-defghij3"
    assert problems.count == 0


def test_a_label_that_is_listed_twice_counts_once() -> None:
    videos, _ = _videos("LcFWKgFphXI_20_30\tClapping,Clapping")
    assert videos[0].labels == ("Clapping",)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_columns_are_found_by_their_names_whatever_the_line_ends(ends: str) -> None:
    text = ends.join(["event_labels\tquality\tfilename", f"Dog\tgood\t{NAME}"])
    videos, problems = _read("\ufeff" + text, read_videos)
    assert (videos, problems.count) == ([Video(NAME, ("Dog",))], 0)


_ids = st.text("abcXYZ019-_", min_size=11, max_size=11)
_videos_written = st.tuples(
    _ids, st.integers(0, 9_000), st.booleans(), st.lists(st.sampled_from(CATEGORIES), min_size=1)
)


@given(st.lists(_videos_written, min_size=1, max_size=15))
def test_videos_come_back_as_written(written: list[tuple[str, int, bool, list[str]]]) -> None:
    expected = []
    for clip, start, decimal, labels in written:
        name = f"{clip}_{start}.5_{start + 10}.5" if decimal else f"{clip}_{start}_{start + 10}"
        expected.append(Video(name, tuple(dict.fromkeys(labels))))
    rows = [f"{video.filename}\t{','.join(labels)}" for video, (*_, labels) in zip(expected, written, strict=True)]
    videos, problems = _videos(*rows)
    assert (videos, problems.count) == (expected, 0)
    assert [video.clip for video in videos] == [clip for clip, *_ in written]


@given(st.text(alphabet="\t\n,./ab_-0123456789\0é", max_size=150))
def test_any_text_gives_safe_ids_or_problems(text: str) -> None:
    videos, problems = _read(f"filename\tevent_labels\n{text}", read_videos)
    assert videos or problems.count
    assert problems.count or all(len(video.clip) == 11 and not set(video.clip) & set("./\0") for video in videos)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("../../etc/pa_0_10\tDog", r"the file name '\.\./\.\./etc/pa_0_10' is not <id of 11"),
        ("abcdefghij_0_10\tDog", "is not <id of 11"),
        ("abcdefghijk_0_1e1\tDog", "is not <id of 11"),
        ("abcdefghijk_٠_10\tDog", "is not <id of 11"),
        ("abcdefghijk_0_5\tDog", "the video 'abcdefghijk_0_5' is 5 s long, not 10"),
        (f"{NAME}\tOwl", "unknown label 'Owl'"),
        (f"{NAME}\t", "unknown label ''"),
        (f"{NAME}\tDog,,Cat", "unknown label ''"),
        (NAME, "1 fields separated by TAB, not 2"),
        (f"{NAME}\tDog\tCat", "3 fields separated by TAB, not 2"),
        (f"{NAME}\t" + "Dog," * 2000, "the line is 8024 bytes long"),
    ],
)
def test_a_row_that_is_wrong_is_named_by_its_line(row: str, what: str) -> None:
    _, problems = _videos(f"{NAME}\tDog", row)
    assert problems.count == 1
    assert re.search(rf"file\.csv:3: .*{what}", problems.listed[0])


@pytest.mark.parametrize("header", ["filename,event_labels", "filename", "name\tevent_labels", "x\tfilename\tfilename"])
def test_a_file_without_its_columns_is_one_problem(header: str) -> None:
    _, problems = _videos(f"{NAME}\tDog", f"{NAME}\tDog", header=header)
    assert problems.count == 1
    assert re.search(r"file\.csv:1: no TAB-separated column .*; the columns are ", problems.listed[0])


@pytest.mark.parametrize("text", ["", "\n\n", "filename\tevent_labels\n"])
def test_a_file_without_rows_is_a_problem(text: str) -> None:
    _, problems = _read(text, read_videos)
    assert problems.listed[0].endswith("file.csv: holds no rows")


def test_events_are_whole_seconds_by_video() -> None:
    found, problems = _events(f"{NAME}\t0\t10\tDog", f"{NAME}\t2\t3\tCat", f"{NAME}\t0\t10\tDog")
    assert found.of_video == {NAME: [Event("Dog", 0, 10), Event("Cat", 2, 3), Event("Dog", 0, 10)]}
    assert (found.unknown, found.empty, problems.count) == (0, 0, 0)


def test_rows_of_no_known_video_and_events_without_a_second_are_counted() -> None:
    mangled = [f"{name}\t0\t4\tSpeech" for name in ("Baby_cry_infant_cry", f"{NAME}`", "../../x", "P7x4FV4lg_570_580")]
    found, problems = _events(*mangled, f"{NAME}\t9\t0\tCheering", f"{NAME}\t4\t4\tDog")
    assert (found.of_video, found.unknown, found.empty, problems.count) == ({}, 4, 2, 0)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"{NAME}\t0.5\t3\tDog", "onset '0.5' and offset '3' are not whole seconds from 0 to 10"),
        (f"{NAME}\t0\t11\tDog", "onset '0' and offset '11' are not whole seconds"),
        (f"{NAME}\t-1\t3\tDog", "onset '-1' and offset '3' are not whole seconds"),
        (f"{NAME}\t\t3\tDog", "onset '' and offset '3' are not whole seconds"),
        (f"{NAME}\t0\t٣\tDog", "are not whole seconds"),
        (f"{NAME}\t0\t3\tOwl", "unknown label 'Owl'"),
        (f"{NAME}\t0\t3", "3 fields separated by TAB, not 4"),
    ],
)
def test_an_event_that_is_wrong_is_named_by_its_line(row: str, what: str) -> None:
    _, problems = _events(row)
    assert problems.count == 1
    assert re.search(rf"file\.csv:2: .*{what}", problems.listed[0])


def test_rows_are_read_no_further_than_a_wrong_header(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.csv", Problems()
    path.write_text("a\tb\n1\t2\n")
    assert list(read_columns(path, ("a", "c"), problems)) == []
    assert problems.count == 1
