import json

import pytest

from mettle_cache.pipelines.report.text import encodable, printable


@pytest.mark.parametrize(
    "text", ["plain", "Füße, 音, é and ± 5", "a　b c", "[red]a[/red] [/] {b} %s", "", "two\n  lines"]
)
def test_what_moves_nothing_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("back\b\r over", r"back\x08\r over"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("a\u2028b\x85c\x0bd", r"a\u2028b\x85c\x0bd"),
        ("caf\udce9", r"caf\xe9"),
        ("half\ud800", r"half\ud800"),
        ("\x07\x7f\0", r"\x07\x7f\x00"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text, expected):
    assert printable(text) == expected


def test_a_line_inside_a_text_passes_for_no_line_of_ours():
    assert printable("clip\nerror: all is lost") == "clip\n  error: all is lost"


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "\udce9\ud800é"])
def test_encodable_text_is_unicode(text):
    encodable(text).encode("utf-8")
    json.loads(json.dumps(encodable(text))).encode("utf-8")
