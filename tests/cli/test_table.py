"""Tables on a terminal."""

from mettle_cache.cli.table import table_lines


def test_a_table_aligns_words_left_and_numbers_right():
    assert table_lines(("name", "n"), [("a", 1), ("long", 12), ("c", None)]) == [
        "name   n",
        "a      1",
        "long  12",
        "c      -",
    ]
