from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mettle_cache.datasets.textfile import (
    MAX_LINE_BYTES,
    MAX_LISTED,
    Problems,
    escaped,
    id_problem,
    quoted,
    read_bytes,
    read_lines,
)
from mettle_cache.errors import DatasetError


def _read(content: bytes) -> tuple[list[tuple[int, str]], Problems]:
    problems = Problems()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes(content)
        lines = [(line.number, line.text) for line in read_lines(path, problems)]
    return lines, problems


@given(st.binary(max_size=300))
def test_every_line_of_any_bytes_is_read_or_blank_or_reported(content: bytes) -> None:
    assume(not content.removeprefix(b"\xef\xbb\xbf").startswith((b"\xff\xfe", b"\xfe\xff")))
    lines, problems = _read(content)

    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    expected: list[tuple[int, str]] = []
    broken = 0
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        text = raw.decode("utf-8", errors="replace")
        if raw != text.encode():
            broken += 1
        elif text.strip("\r").strip():
            expected.append((number, text.strip("\r")))
    assert lines == expected
    assert problems.count == broken


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)))
def test_line_ends_and_a_byte_order_mark_change_nothing(texts: list[str]) -> None:
    texts = [text for text in texts if not text.startswith("\ufeff")]
    unix, _ = _read("\n".join(texts).encode())
    windows, _ = _read(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    assert windows == unix


def test_the_line_ends_of_old_spreadsheets_are_line_ends() -> None:
    assert _read(b"a\rb\r\rc")[0] == [(1, "a"), (2, "b"), (4, "c")]
    assert _read(b"a\rb\nc")[0] == [(1, "a\rb"), (2, "c")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named_where_it_says_so(encoding: str) -> None:
    with pytest.raises(DatasetError, match=r"list.txt is UTF-16 text\n  next: save it as UTF-8"):
        _read(("" if encoding == "utf-16" else "\ufeff").encode(encoding) + "a,b\n".encode(encoding))


def test_unicode_separators_do_not_shift_line_numbers() -> None:
    assert _read("a\u2028b\x0bc\x85\nd".encode())[0] == [(1, "a\u2028b\x0bc\x85"), (2, "d")]


def test_a_line_of_ten_megabytes_is_reported_without_being_repeated() -> None:
    lines, problems = _read(b"a\n" + b"x" * 10_000_000 + b"\nb")
    assert lines == [(1, "a"), (3, "b")]
    assert re.search(r"list.txt:2: the line is 10000000 bytes long$", problems.listed[0])
    assert MAX_LINE_BYTES < 10_000_000


def test_bytes_that_are_not_utf8_are_reported_with_their_line() -> None:
    lines, problems = _read(b"good\nb\xe9d\n")
    assert lines == [(1, "good")]
    assert problems.listed[0].endswith("list.txt:2: not UTF-8 at byte 2 of the line")


def test_a_file_far_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Annotations.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatasetError, match=r"Annotations.txt is larger than 16 MB"):
        list(read_lines(path, Problems()))


def test_a_device_that_never_ends_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match="is not a file"):
        list(read_lines(tmp_path / "list.txt", Problems()))


def test_a_file_of_a_size_of_nothing_is_read_up_to_its_limit() -> None:
    """The kernel gives 0 bytes as the size of what it makes up while it is read."""
    with pytest.raises(DatasetError, match=r"/proc/self/status is larger than 0 MB"):
        read_bytes(Path("/proc/self/status"), limit=10)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a file"):
        list(read_lines(tmp_path, Problems()))


def test_all_problems_come_in_one_message_up_to_a_limit(tmp_path: Path) -> None:
    problems = Problems()
    for number in range(1000):
        problems.add(f"problem number {number};")
    with pytest.raises(DatasetError, match="have 1000 problems:") as caught:
        problems.raise_if_any(tmp_path, hint="mend them")
    assert caught.value.message.count("problem number") == MAX_LISTED
    assert caught.value.message.endswith("... and 980 more")
    assert caught.value.hint == "mend them"


def test_no_problem_raises_nothing_and_one_is_singular(tmp_path: Path) -> None:
    problems = Problems()
    problems.raise_if_any(tmp_path)
    problems.add("it")
    with pytest.raises(DatasetError, match=r"have 1 problem:\n  - it$"):
        problems.raise_if_any(tmp_path)


@pytest.mark.parametrize("text", ["VWi2ENBuTbw", "-a_b-C0", "_", "x" * 64])
def test_ids_that_are_fine(text: str) -> None:
    assert id_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "C:\\x",
        "a\0b",
        "x" * 65,
        "x" * 10_000_000,
        "аbc",
        "a b",
        "a.b",
        "a\n",
        "１",
    ],
)
def test_ids_that_could_leave_the_root_or_look_like_another(text: str) -> None:
    problem = id_problem(text)
    assert problem is not None
    assert problem.isascii()
    assert len(problem) < 1000
    assert "is not 1 to 64 letters, digits, - or _" in problem


@given(st.text(max_size=80))
def test_an_accepted_id_is_one_plain_path_component(text: str) -> None:
    if id_problem(text) is None:
        assert Path("root", text).parent == Path("root")
        assert text.isascii()
        assert text not in (".", "..")


@given(st.text(max_size=200))
def test_quoted_text_is_safe_for_a_terminal(text: str) -> None:
    assert quoted(text).isascii()
    assert quoted(text).isprintable()


def test_what_does_not_print_is_written_out_and_everything_else_stays() -> None:
    assert escaped("a b\u00e9\u4e2d-_/") == "a b\u00e9\u4e2d-_/"
    for text in ("\x1b[2J", "a\nb", "\udcff", "\u202e", "\x07\x9b"):
        assert escaped(text).isprintable()
        assert escaped(text).encode().decode("unicode_escape") == text
