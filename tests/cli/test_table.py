"""Tables on a terminal."""

from mettle_cache.cli.table import labelled_lines, table_lines


def test_a_table_aligns_words_left_and_numbers_right():
    assert table_lines(("name", "n"), [("a", 1), ("long", 12), ("c", None)]) == [
        "name   n",
        "a      1",
        "long  12",
        "c      -",
    ]


def test_a_table_is_fitted_by_its_widest_columns_of_words():
    rows = [("first", 1, "a sentence that is longer than the page is wide"), ("second", 22, "short")]
    assert table_lines(("name", "n", "what"), rows, width=34) == [
        "name     n  what",
        "first    1  a sentence that is",
        "            longer than the page",
        "            is wide",
        "second  22  short",
    ]
    # no word is broken, however narrow the page
    assert table_lines(("what",), [("cache/ave-swinv2_l-htsat.zarr",)], width=10)[1] == "cache/ave-swinv2_l-htsat.zarr"


def test_a_long_line_goes_on_under_its_sentence_and_commands_stay_whole():
    line = "note       weights are random; run `mettle train --from-cache cache/a.zarr` to see what is lost by it"
    assert labelled_lines(line, 60) == [
        "note       weights are random; run",
        "           `mettle train --from-cache cache/a.zarr` to see",
        "           what is lost by it",
    ]
    command = f"next       mettle evaluate {80 * 'x'} --split val"
    assert labelled_lines(command, 60) == [command]
    prose = "the method reads all layers of the store that it is given, in their order"
    assert labelled_lines(prose, 60) == [prose]
