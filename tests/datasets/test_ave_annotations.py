from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.datasets.ave_annotations import CATEGORIES, AnnotatedRow, read_categories, read_rows
from mettle_cache.datasets.textfile import Problems

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
GOOD = "Bark&abcdefghijk&good&1&4"


def _rows(text: str | bytes, categories: Sequence[str] = CATEGORIES) -> tuple[list[AnnotatedRow], Problems]:
    problems = Problems()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Annotations.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_rows(path, categories, problems), problems


_ids = st.text("abcXYZ019-_", min_size=1, max_size=64)
_events = st.tuples(st.sampled_from(CATEGORIES), _ids, st.integers(0, 10), st.integers(0, 10)).map(
    lambda event: AnnotatedRow(event[0], event[1], min(event[2:]), max(event[2:]))
)


@given(st.lists(_events, min_size=1, max_size=20, unique=True), st.booleans(), st.booleans())
def test_rows_come_back_as_written_with_and_without_a_header(
    rows: list[AnnotatedRow], header: bool, trailing: bool
) -> None:
    lines = [f"{row.category}&{row.clip}&good&{row.start}&{row.end}" for row in rows]
    text = "\n".join(([HEADER] if header else []) + lines) + ("\n" if trailing else "")
    read, problems = _rows(text)
    assert read == rows
    assert problems.count == 0


@given(st.text(alphabet="&Bark0123456789abc-_./\n\0é", max_size=120))
def test_any_text_gives_rows_within_bounds_or_problems(text: str) -> None:
    rows, problems = _rows(text)
    assert rows or problems.count
    for row in rows:
        assert 0 <= row.start <= row.end <= 10
        assert "/" not in row.clip
        assert "." not in row.clip


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Bark&abcdefghijk&good&1", "4 fields separated by '&', not 5"),
        ("Bark&abcdefghijk&good&1&4&5", "6 fields separated by '&', not 5"),
        ("just words", "1 fields separated by '&', not 5"),
        ("Bark&abcdefghijk&good&1.5&4", "times '1.5' and '4' are not whole seconds from 0 to 10"),
        ("Bark&abcdefghijk&good&-1&4", "times '-1' and '4' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&11", "times '1' and '11' are not whole seconds"),
        ("Bark&abcdefghijk&good&&4", "times '' and '4' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&٤", r"times '1' and '\u0664' are not whole seconds"),
        ("Bark&abcdefghijk&good&1&" + "9" * 4000, "are not whole seconds"),
        ("Bark&abcdefghijk&good&5&4", "the event starts at 5 s and ends at 4 s"),
        ("Bark&../../secret&good&1&4", "the id '../../secret' is not 1 to 64 letters, digits, - or _"),
        ("Bark&/etc/passwd&good&1&4", "the id '/etc/passwd' is not"),
        ("Bark&abc\0def&good&1&4", r"the id 'abc\x00def' is not"),
        ("Bark&&good&1&4", "the id '' is not"),
        (f"Bark&{'x' * 65}&good&1&4", "is not 1 to 64 letters"),
        ("Bark&аbcdefghijk&good&1&4", r"the id '\u0430bcdefghijk' is not"),
        ("Barking&abcdefghijk&good&1&4", "unknown category 'Barking'"),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(line: str, what: str) -> None:
    _, problems = _rows(f"{HEADER}\n{GOOD}\n{line}\n")
    assert problems.count == 1
    place, _, reported = problems.listed[0].partition("Annotations.txt:3: ")
    assert place != problems.listed[0]
    assert what in reported
    assert len(reported) < 300


def test_a_repeated_sample_names_the_line_it_repeats() -> None:
    _, problems = _rows(f"{GOOD}\nBark&other&good&1&4\n{GOOD}\n")
    assert problems.count == 1
    assert problems.listed[0].endswith("Annotations.txt:3: the same sample as in line 1")


def test_no_rows_at_all_is_a_problem() -> None:
    _, problems = _rows(HEADER)
    assert problems.listed[0].endswith("Annotations.txt: holds no rows")


def test_every_problem_is_found_not_only_the_first() -> None:
    _, problems = _rows(b"Bark&a/b&good&1&4\n\xff\xff\nBark&abc&good&7&4\n" + GOOD.encode())
    assert [problem.split("Annotations.txt:")[1][0] for problem in sorted(problems.listed)] == ["1", "2", "3"]


def test_categories_are_the_published_ones_without_a_file(tmp_path: Path) -> None:
    assert read_categories(tmp_path, Problems()) == CATEGORIES
    assert len(set(CATEGORIES)) == 28


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Bark\nCat\nBark\n", "categories.txt:3: 'Bark' is listed twice"),
        ("Bark\nA&B\n", "categories.txt:2: 'A&B' is not a category name"),
        ("Bark\nA\x1b[2J\n", r"categories.txt:2: 'A\x1b[2J' is not a category name"),
        ("\n", "categories.txt: lists no categories"),
    ],
)
def test_a_bad_category_list_is_reported(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "categories.txt").write_text(text)
    problems = Problems()
    read_categories(tmp_path, problems)
    assert problems.listed[0].endswith(what)


def test_categories_come_from_the_file_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "categories.txt").write_text("Zebra\nApple, red\n")
    assert read_categories(tmp_path, Problems()) == ("Zebra", "Apple, red")
