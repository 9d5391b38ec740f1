"""Files that show predictions: they stay in their folder, and frames come from the data set or not at all."""

import numpy as np
import pytest

from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.pipelines.evaluate.artefacts import StoredFrames, write_artefacts
from mettle_cache.pipelines.progress import Silent
from tests.datasets.avsbench_files import write_ms3


class Shows:
    """A task that shows what it is told to."""

    def __init__(self, *files):
        self.files = files

    def artefacts(self, predictions, rows, frames):
        yield from self.files


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class AStore:
    dataset = "avs-ms3"
    key = {"extraction": {}}  # noqa: RUF012


def test_files_are_written_over_those_of_an_earlier_evaluation(tmp_path):
    folder = tmp_path / "artefacts"
    for content in (b"old", b"new"):
        assert write_artefacts(Shows(("a/b.png", content), ("c.png", b"c")), {}, [], folder, None) == folder
    assert (folder / "a" / "b.png").read_bytes() == b"new"
    assert (folder / "c.png").read_bytes() == b"c"


def test_a_task_that_shows_nothing_makes_no_folder(tmp_path):
    assert write_artefacts(Shows(), {}, [], tmp_path / "artefacts", None) is None
    assert not (tmp_path / "artefacts").exists()


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png"])
def test_nothing_is_written_outside_the_folder(tmp_path, name):
    name = str(tmp_path) + name if name.startswith("/") else name
    with pytest.raises(UsageError, match="would lie outside"):
        write_artefacts(Shows((name, b"x")), {}, [], tmp_path / "artefacts", None)
    assert not list(tmp_path.rglob("out.png"))


def test_nor_through_a_link(tmp_path):
    folder = tmp_path / "artefacts"
    folder.mkdir()
    (folder / "masks").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="would lie outside"):
        write_artefacts(Shows(("masks/out.png", b"x")), {}, [], folder, None)
    assert not (tmp_path / "out.png").exists()


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
