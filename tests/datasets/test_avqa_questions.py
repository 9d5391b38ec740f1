from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.datasets.avqa_questions import (
    MAX_FILE_BYTES,
    Question,
    fill_template,
    parse_question,
    read_questions,
)
from mettle_cache.datasets.textfile import Problems
from mettle_cache.errors import DatasetError
from tests.datasets.avqa_files import entries, replaced


def test_an_entry_becomes_its_filled_words() -> None:
    assert parse_question(entries("train")[1]) == Question(
        clip="00000028",
        number=7,
        modality="Audio",
        kind="Comparative",
        template="Is the <Object> louder than the <Object>?",
        words=("Is", "the", "erhu", "louder", "than", "the", "tuba"),
        answer="no",
        deleted=False,
    )


@pytest.mark.parametrize(
    ("template", "values", "words"),
    [
        ("Where is the performance?", "[]", "Where is the performance"),
        ("Where is the performance? ", "[]", "Where is the performance"),
        ("How many sounding <Object> in the video\uff1f", '["suona"]', "How many sounding suona in the video"),
        ("Is the <FL> sound coming from the <LR> instrument?", '["last", "left"]',
         "Is the last sound coming from the left instrument"),
        ("Which <Object> makes the sound <FL>?", '["cello", "first"]', "Which cello makes the sound first"),
        ("Is the <Object> on the <LR> more rhythmic than the <Object> on the <LR>?", '["a", "b", "c", "d"]',
         "Is the a on the b more rhythmic than the c on the d"),
        ("Is THE Case kept?", "[]", "Is THE Case kept"),
    ],
)  # fmt: skip
def test_slots_are_filled_in_order_and_the_mark_is_dropped(template, values, words) -> None:
    assert fill_template(template, values) == tuple(words.split(" "))


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("Is the <Object> here?", "[]", "has 1 slots for 0 values"),
        ("Is it here?", '["tuba"]', "has 0 slots for 1 values"),
        ("Is the <Object> here?", "tuba", "is not a list of words"),
        ("Is the <Object> here?", '{"a": 1}', "is not a list of words"),
        ("Is the <Object> here?", "[1]", "is not a list of words"),
        ("Is the <Object> here?", '["two words"]', "is not a list of words"),
        ("Is the <Object> here?", '["<pad>"]', "is not a list of words"),
        ("Is the <Object> here?", "['tuba']", "is not a list of words"),
        ("Is the <Object> here?", "[" * 900, "is not a list of words"),
        ("Is it here", "[]", "does not end with a question mark"),
        ("Is  it here?", "[]", "one space between them"),
        ("?", "[]", "one space between them"),
        (" ".join(["word"] * 65) + "?", "[]", "is not 1 to 64 words"),
    ],
)
def test_slots_that_do_not_fit_are_told(template, values, message) -> None:
    assert message in fill_template(template, values)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"anser": None}, "has no anser"),
        ({"video_id": None, "type": None}, "has no video_id, type"),
        ({"video_id": "../../etc/passwd"}, r"the id '../../etc/passwd' is not 1 to 64"),
        ({"video_id": "a/b"}, "the id 'a/b' is not"),
        ({"video_id": 28}, "video_id is '28', not a line of text"),
        ({"anser": ["yes"]}, "anser is \"['yes']\", not a line of text"),
        ({"anser": ""}, "anser is '', not a line of text"),
        ({"anser": "yes\x1b[31m"}, "not a line of text"),
        ({"question_content": "x" * 5000}, "not a line of text"),
        ({"type": '["Audio", "Location"]'}, "is none of the nine"),
        ({"type": "Audio"}, "is none of the nine"),
        ({"type": '["Audio"]'}, "is none of the nine"),
        ({"question_id": "7"}, "question_id is '7', not a whole number"),
        ({"question_id": True}, "question_id is 'True', not a whole number"),
        ({"question_id": 10**30}, "not a whole number"),
        ({"question_deleted": 0.5}, "question_deleted is '0.5', not a whole number"),
    ],
)
def test_fields_that_are_wrong_are_told(changed, message) -> None:
    assert message in parse_question(replaced(**changed))


@pytest.mark.parametrize("content", [None, 3, "text", [1], ["type"]])
def test_an_entry_of_another_kind_is_told(content) -> None:
    assert "where an object with video_id, type" in parse_question(content)


def test_a_file_names_every_wrong_entry(tmp_path: Path) -> None:
    path = tmp_path / "avqa-train.json"
    path.write_text(json.dumps([*entries("train"), {"video_id": "x"}, replaced(video_id="..")]))
    problems = Problems()
    assert len(read_questions(path, problems)) == 4
    assert problems.listed == [
        f"{path}: entry 4: has no type, question_content, templ_values, anser",
        f"{path}: entry 5: the id '..' is not 1 to 64 letters, digits, - or _",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"questions": []}', "holds a dict, not a list"),
        ("[]", "holds no questions"),
        ("", "cannot be read as JSON"),
        ('[{"video_id": "1"', "cannot be read as JSON"),
        ("\x00\xff", "cannot be read as JSON"),
        ("[" * 200_000, "is nested far deeper|cannot be read as JSON"),
        ('[{"anser": "no", "question_id": 1, "anser": "yes"}]', "an object names 'anser' twice"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content, message) -> None:
    path = tmp_path / "avqa-val.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=message) as caught:
        read_questions(path, Problems())
    assert str(path) in str(caught.value)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "avqa-val.json"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(DatasetError, match="larger than 32 MB"):
        read_questions(path, Problems())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(entries("train")[0])), _JSON) | _JSON)
def test_any_entry_is_a_question_or_a_sentence(changes) -> None:
    entry = replaced(**changes) if isinstance(changes, dict) else changes
    parsed = parse_question(entry)
    assert isinstance(parsed, Question | str)
    if isinstance(parsed, Question):
        assert all(parsed.words)
        assert "/" not in parsed.clip
    else:
        assert parsed.isascii()


@given(st.text(max_size=60), st.text(max_size=40))
def test_any_template_is_filled_or_refused(template, values) -> None:
    words = fill_template(template, values)
    if not isinstance(words, str):
        assert not any(character.isspace() for word in words for character in word)
