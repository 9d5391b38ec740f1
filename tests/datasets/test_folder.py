"""A user's own folder: what the table may say, and everything that is wrong with it, at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.metrics.avel import segment_labels
from tests.datasets.folder_files import write_folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "clips"
    write_folder(root)
    return root


@pytest.fixture
def table(tmp_path):
    def write(*lines: str, newline: str = "\n") -> Path:
        (tmp_path / "clips.csv").write_bytes((newline.join(lines) + newline).encode())
        return tmp_path

    return write


def events(root, **options):
    """Clip to its split, category and interval."""
    rows = open_dataset("folder", root, options).samples.to_pylist()
    return {row["clip"]: (row["split"], row["category"], row["start"], row["end"]) for row in rows}


def test_a_number_does_as_an_option(written):
    dataset = open_dataset("folder", written, {"duration": 3})
    assert (dataset.segments, dataset.decode_policy) == (
        3,
        open_dataset("folder", written, {"duration": "3"}).decode_policy,
    )
    with pytest.raises(UsageError, match="duration=-1: must be a whole number from 1 to 600"):
        open_dataset("folder", written, {"duration": -1})


def test_its_repr_does_not_list_the_clips(written):
    dataset = open_dataset("folder", written)
    assert repr(dataset) == (
        f"<MediaDataset folder in {written}: {len(dataset.clips)} clips of 10 segments, {len(dataset.samples)} samples>"
    )


def test_clips_are_read_from_the_table_and_the_media_beside_it(written):
    dataset = open_dataset("folder", written, {"duration": "3"})
    assert dataset.problems(deep=True) == []
    assert (dataset.segments, len(dataset.clips)) == (3, 8)
    assert dataset.vocabulary == {"categories": ["Dog", "Rain, heavy"]}
    assert dataset.notes == ()
    video, pictures = dataset.clips[:2]
    assert (video.frames, video.audio) == (written / "train-0.mp4", written / "train-0.mp4")
    assert (pictures.frames, pictures.audio) == (written / "train-1", written / "train-1.wav")
    for clip in (video, pictures):
        assert [frame.shape for frame in dataset.load_frames(clip)] == [(128, 128, 3)] * 3
        assert dataset.load_waveform(clip, 16_000).shape == pytest.approx((48_000,), rel=0.05)
    assert dataset.decode_policy["places"] == {"frames": ["{id}/*.jpg", "{id}.mp4"], "audio": ["{id}.wav", "{id}.mp4"]}


def test_events_are_those_of_the_table(written):
    assert events(written, duration="3") == {
        "train-0": ("train", "Dog", 0, 3),
        "train-1": ("train", "Rain, heavy", 1, 3),
        "train-2": ("train", "Dog", 0, 3),
        "train-3": ("train", "Rain, heavy", 1, 3),
        "val-0": ("val", "Dog", 0, 3),
        "val-1": ("val", "Rain, heavy", 1, 3),
        "test-0": ("test", "Dog", 0, 3),
        "test-1": ("test", None, 0, 0),
    }


def test_labels_of_a_clip_without_an_event_are_all_background():
    labels = segment_labels(["Dog", None], [1, 0], [3, 0], vocabulary=["Cat", "Dog"], segments=4)
    np.testing.assert_array_equal(labels, [[2, 1, 1, 2], [2, 2, 2, 2]])


def test_without_times_a_label_holds_throughout(table):
    root = table("id,split,label", "a,train,Dog", "b,test,Cat")
    assert events(root) == {"a": ("train", "Dog", 0, 10), "b": ("test", "Cat", 0, 10)}
    assert events(root, duration="600")["b"] == ("test", "Cat", 0, 600)


def test_columns_come_in_any_order_and_as_spreadsheets_write_them(table):
    lines = [
        "\ufefflabel,end,start,split,id",
        '"Car, passing",9,2,train,a',
        "",
        "BACKGROUND,,,val,b ",
        " Dog ,,,test,c",
    ]
    assert events(table(*lines, newline="\r\n")) == {
        "a": ("train", "Car, passing", 2, 9),
        "b": ("val", None, 0, 0),
        "c": ("test", "Dog", 0, 10),
    }


def test_categories_do_not_depend_on_the_order_of_the_rows(table):
    lines = ["a,train,Dog", "b,train,Cat", "c,train,ant", "d,train,Dog"]
    first = open_dataset("folder", table("id,split,label", *lines)).vocabulary
    assert first == {"categories": ["Cat", "Dog", "ant"]}
    assert open_dataset("folder", table("id,split,label", *reversed(lines))).vocabulary == first


def test_what_will_be_missed_is_a_note(table):
    dataset = open_dataset("folder", table("id,split,label", "a,train,Dog", "b,test,Cat"))
    assert dataset.notes == (
        "no clip is in val",
        "labels without a train clip, which cannot be learnt: 1, such as 'Cat'",
    )


def test_everything_wrong_is_said_at_once_with_its_line(table):
    root = table(
        "id,split,label,start,end",
        "a,train,Dog,0,5",
        "b,valid,Dog,0,5",
        "../c,train,Dog,0,5",
        "d,train,,0,5",
        "e,train,Dog,5,5",
        "f,train,Dog,0,11",
        "g,train,Dog,0",
        "h,train,Dog,1.5,3",
        "i,train,Dog,3,",
        "a,test,Cat,,",
        "j,train,background,0,5",
        'k,train,"Dog,0,5',
    )
    expected = [
        "3: the split 'valid' is not one of train, val, test",
        "4: the id '../c' is not 1 to 64 letters, digits, - or _",
        "5: the label '' is not a name",
        "6: the event starts at 5 s and ends at 5 s",
        "7: times '0' and '11' are not whole seconds from 0 to 10",
        "8: 4 cells separated by commas, not 5",
        "9: times '1.5' and '3' are not whole seconds from 0 to 10",
        "10: times '3' and '' are not whole seconds from 0 to 10",
        "11: the clip a is in line 2 already: a clip has one event",
        "12: background is no event: it has no times",
        "13: is no row of a CSV file: unexpected end of data",
    ]
    with pytest.raises(DatasetError) as caught:
        open_dataset("folder", root)
    first, *listed = caught.value.message.splitlines()
    assert first == f"the annotations in {root} have {len(expected)} problems:"
    assert listed == [f"  - {root / 'clips.csv'}:{problem}" for problem in expected]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["a,train,Dog"],
            "the header must be id,split,label or id,split,label,start,end, in any order; it is 'a'",
        ),
        (["id,split,label,start", "a,train,Dog,0"], "the header must be id,split,label or"),
        (["id;split;label", "a;train;Dog"], "it is 'id;split;label'"),
        (["id,split,label,lable", "a,train,Dog,Dog"], "the header must be"),
        (["id,split,label"], "holds no rows"),
        (["id,split,label", "a,train,background"], "labels no clip with anything but background"),
    ],
)
def test_a_table_that_is_none(table, lines, message):
    with pytest.raises(DatasetError, match=re.escape(message)):
        open_dataset("folder", table(*lines))


@pytest.mark.parametrize("label", ["dog-Ü", "DOG-Ü", "Dog-U\u0308", "Ｄog-Ü"])
def test_one_label_is_not_written_in_two_ways(table, label):
    root = table("id,split,label", "a,train,Dog-Ü", "b,val,Dog-Ü", "c,train,Cat", f"d,val,{label}")
    said = rf"clips.csv:5: the label {re.escape(ascii(label))} is written 'Dog-\\xdc' further up"
    with pytest.raises(DatasetError, match=said):
        open_dataset("folder", root)


def test_no_table_at_all_says_what_to_write(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no clips.csv in .*\n  next: write one with the header id,split,"):
        open_dataset("folder", tmp_path)


@pytest.mark.parametrize("duration", ["0", "601", "-1", "1.5", "ten", "", "٣", "1e2"])
def test_a_duration_is_a_whole_number_of_seconds(table, duration):
    with pytest.raises(UsageError, match=f"option duration={duration}: must be a whole number from 1 to 600"):
        open_dataset("folder", table("id,split,label", "a,train,Dog"), {"duration": duration})


def test_media_that_are_missing_are_named(table):
    dataset = open_dataset("folder", table("id,split,label", "a,train,Dog"))
    assert {(p.clip, p.path.name) for p in dataset.problems()} == {("a", "a"), ("a", "a.wav")}
