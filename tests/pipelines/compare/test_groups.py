import pytest

from mettle_cache.errors import DatasetError
from mettle_cache.pipelines.compare.groups import group_columns, read_groups


def written(folder, text):
    path = folder / "groups.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_column_is_a_way_to_group(tmp_path):
    path = written(tmp_path, '﻿picture,clip,recording\ndog.png,"a,1",bark\ndog.png,b,miaow\ncat.png,c,miaow\n')
    groups = read_groups(path)
    assert group_columns(groups, ["b", "a,1", "c", "b"]) == {
        "clip": ["b", "a,1", "c", "b"],
        "picture": ["dog.png", "dog.png", "cat.png", "dog.png"],
        "recording": ["miaow", "bark", "miaow", "miaow"],
    }


def test_without_a_file_each_clip_is_its_own_group():
    assert group_columns({}, ["a", "b", "a"]) == {"clip": ["a", "b", "a"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the columns are none"),
        ("clip\na\n", "the columns are clip"),
        ("video,picture\na,b\n", "the columns are video, picture"),
        ("clip,picture,picture\na,b,c\n", "the columns are clip, picture, picture"),
        ("clip,picture\na,b\nc\n", "line 3: 1 values for 2 columns"),
        ("clip,picture\na,b\na,c\n", "line 3: the clip a is there already"),
        ("clip,picture\na,b\nc,\n", "line 3: an empty cell"),
        ('clip,picture\n"a,b\n', "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(DatasetError, match=words):
        read_groups(written(tmp_path, text))


def test_a_missing_file_and_a_missing_clip_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nosuch\.csv: the groups cannot be read"):
        read_groups(tmp_path / "nosuch.csv")
    with pytest.raises(DatasetError, match="no line for 1 of 2 clips, such as b"):
        group_columns(read_groups(written(tmp_path, "clip,picture\na,x\n")), ["a", "b"])
