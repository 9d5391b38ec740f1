"""Files that show predictions: they stay in their folder, and frames come from the data set or not at all."""

import numpy as np
import pytest

from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames, write_artefacts
from mettle_cache.pipelines.progress import Silent
from tests.datasets.avsbench_files import write_ms3


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class AStore:
    dataset = "avs-ms3"
    computed = None
    key = {"extraction": {}}  # noqa: RUF012


def test_files_take_the_place_of_those_of_an_earlier_evaluation(tmp_path):
    folder = tmp_path / "artefacts-test"
    write_artefacts([("a/b.png", b"old"), ("gone.png", b"old")], folder)
    assert write_artefacts([("a/b.png", b"new"), ("c.png", b"c")], folder) == [folder / "a", folder / "c.png"]
    assert {path.name: path.read_bytes() for path in folder.rglob("*.png")} == {"b.png": b"new", "c.png": b"c"}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_was_there_stays_whole_where_drawing_fails(tmp_path):
    folder = tmp_path / "artefacts-test"
    write_artefacts([("a.png", b"old"), ("b.png", b"old")], folder)

    def failing():
        yield "a.png", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_artefacts(failing(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.png": b"old", "b.png": b"old"}
    # a killed process leaves the new files unfinished, or the old ones aside
    for left in (".artefacts-test.new", ".artefacts-test.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stray.png").touch()
    write_artefacts([("a.png", b"new")], folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["artefacts-test", "a.png"]


def test_nothing_to_show_makes_no_folder(tmp_path):
    assert write_artefacts([], tmp_path / "artefacts") == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png"])
def test_nothing_is_written_outside_the_folder(tmp_path, name):
    name = str(tmp_path) + name if name.startswith("/") else name
    with pytest.raises(UsageError, match="would lie outside"):
        write_artefacts([(name, b"x")], tmp_path / "artefacts")
    assert not list(tmp_path.rglob("out.png"))


def test_frames_are_those_of_the_data_set(tmp_path):
    progress = Notes()
    frames = StoredFrames(AStore(), write_ms3(tmp_path), progress)
    assert frames("eeeeeeeeeee_1").shape == (224, 224, 3)
    assert not np.array_equal(frames("eeeeeeeeeee_1"), frames("eeeeeeeeeee_2"))
    assert frames("nobody_1") is None
    (tmp_path / "Multi-sources/ms3_data/visual_frames/eeeeeeeeeee/eeeeeeeeeee.mp4_3.png").write_bytes(b"x")
    assert frames("eeeeeeeeeee_3") is None
    assert len(progress.notes) == 1
    assert "no picture of eeeeeeeeeee_3: " in progress.notes[0]


def test_without_the_default_data_set_there_are_no_frames_and_a_note_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    progress = Notes()
    frames = StoredFrames(AStore(), None, progress)
    assert (frames("a"), frames("b")) == (None, None)
    assert len(progress.notes) == 1
    assert "the avs-ms3 folder data/AVSBench_data does not exist" in progress.notes[0]


def test_a_root_that_is_named_must_be_the_data_set(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no Multi-sources/ms3_meta_data.csv in"):
        StoredFrames(AStore(), tmp_path, Notes())("a")
