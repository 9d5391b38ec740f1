"""Where results go: never over the media, nor over one another, and nothing of an earlier video stays."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.protocol import SPREAD
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.predict import files
from mettle_cache.pipelines.predict.config import PredictConfig
from mettle_cache.pipelines.predict.media import find_media
from mettle_cache.pipelines.predict.pictures import write_masks
from mettle_cache.pipelines.predict.windows import ClipForm, plan_windows
from mettle_cache.pipelines.progress import Silent


def test_results_do_not_go_where_the_media_lie(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "clip.mp4").touch()
    link = tmp_path / "link"
    link.symlink_to(folder)
    items = find_media([folder])
    for out in (folder, link):
        with pytest.raises(UsageError, match=r"clip\.mp4: this lies in") as caught:
            PredictConfig(run=tmp_path, files=(folder,), out=out).refuse_beside(items)
        assert "--out" in caught.value.hint
    PredictConfig(run=tmp_path, files=(folder,), out=folder / "answers").refuse_beside(items)


def test_a_video_s_table_is_not_that_of_all(tmp_path):
    paths = [tmp_path / "events.mp4", tmp_path / "other" / "Events.mov", tmp_path / "clip.mp4"]
    assert [item.name for item in find_media(paths)] == ["events-2", "Events-3", "clip"]


def test_masks_of_an_earlier_video_do_not_stay(tmp_path):
    def answer(seconds):
        return SimpleNamespace(plan=SimpleNamespace(total=seconds), mask=lambda _: np.zeros((224, 224), bool))

    (tmp_path / "notes.png").touch()
    for seconds in (4, 2):
        write_masks(answer(seconds), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.png", "000001.png", "notes.png"]


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    (item,) = find_media([tmp_path])
    with pytest.raises(MediaFileError, match="is not UTF-8"):
        plan_windows(item, ClipForm(10, 10, SPREAD))


def test_an_answer_stays_whose_picture_cannot_be_drawn(tmp_path, monkeypatch):
    def refuse(answer, folder):
        raise MediaFileError(answer.item.path, "is cut off")

    monkeypatch.setattr(files, "draw_answer", refuse)
    (item,) = find_media([tmp_path / "clip.mp4"])
    window = SimpleNamespace(decoding=0.0, backbones=0.0, head=0.0)
    config = PredictConfig(run=tmp_path, files=(item.path,), out=tmp_path / "out")
    written = files._Written(config, SimpleNamespace(task="avel", notes=()), Silent())
    written.add(SimpleNamespace(item=item, rows=lambda: [{"name": "clip"}], events=(), windows=[window]))
    report = written.report()
    assert report.answered == [{"name": "clip"}]
    assert [path.name for path in report.files["clip"]] == ["clip.srt", "clip.csv"]
    assert "is cut off" in report.failures[str(item.path)]
