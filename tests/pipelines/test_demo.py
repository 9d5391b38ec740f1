"""The demo: it works in its own folder only, and the whole of it learns something."""

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.demo import CLEARLY, DemoReport, prepare_folder, run_demo
from tests.pipelines.listener import Listener


def test_a_second_demo_replaces_the_first(tmp_path):
    folder = tmp_path / "runs" / "demo"
    prepare_folder(folder)
    (folder / "AVE").mkdir()
    prepare_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["demo-of-mettle-cache"]


def test_a_users_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not of the demo"):
        prepare_folder(tmp_path)
    with pytest.raises(UsageError, match="not of the demo"):
        prepare_folder(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").exists()


def test_steps_are_timed_and_added_up(tmp_path):
    report = DemoReport(tmp_path, accuracy=30.0, floor=30.0 - CLEARLY)
    assert report.run("one", lambda: 41, lambda result: f"got {result}") == 41
    (step,) = report.steps
    assert (step.name, step.did) == ("one", "got 41")
    assert step.peak_memory > 10_000_000
    assert report.seconds == step.seconds
    assert not report.ok
    assert report.to_json()["ok"] is False


@pytest.mark.slow
def test_the_whole_demo_beats_the_floor_clearly(tmp_path):
    listener = Listener()
    report = run_demo(listener, folder=tmp_path / "demo")
    assert report.ok
    assert [step.name for step in report.steps] == ["data", "extract", "verify", "train", "evaluate"]
    assert any("random weights" in note for note in listener.notes)
