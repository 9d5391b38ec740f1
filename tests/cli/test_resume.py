"""What a stopped training says to run next does go on, copied as it is."""

import re
import shlex

import pytest

from mettle_cache.cli.main import run

FAST = ("--set", "train.epochs=3", "--set", "lcd.heads=1", "--set", "lcd.dim=8")


class Stopping:
    """Ctrl-C at the end of the first epoch; what is noted is kept."""

    def __init__(self):
        self.notes = []

    def __call__(self):
        return self

    def start(self, *words):
        pass

    def advance(self, n=1, *, nbytes=0):
        pass

    def finish(self):
        pass

    def note(self, text):
        self.notes.append(text)
        if text.startswith("epoch 1/"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("switches", [(), ("--seeds", "0-1")])
def test_the_hint_of_ctrl_c_works_as_it_is(whole, tmp_path, mettle, monkeypatch, switches):
    out = tmp_path / "my runs" / "first"
    stopping = Stopping()
    with monkeypatch.context() as patched:
        patched.setattr("mettle_cache.pipelines.progress.terminal_progress", stopping)
        assert run(["train", "--from-cache", str(whole), "--out", str(out), *FAST, *switches]) == 130
    (command,) = re.findall("with: mettle (.*)", stopping.notes[-1])
    monkeypatch.chdir(tmp_path)
    code, document, _ = mettle(*shlex.split(command))
    assert code == 0
    assert [head["epochs"] for head in document.get("heads", [document])] == [3] * (2 if switches else 1)
    code, _, err = mettle(*shlex.split(command))
    assert code == 0
    assert "finished already, after 3 epochs" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train",), 2, "--from-cache is missing"),
        (("sweep", "--set", "lcd.dim=4,8"), 2, "--from-cache is missing"),
        (("pretrain-grounding",), 2, "--from-cache is missing"),
        (("train", "--resume"), 2, "--resume without a store needs the run's place"),
        (("train", "--resume", "--out", "nothing"), 1, "there is no run here"),
        (("sweep", "--resume", "--out", "nothing"), 1, "there is no run here"),
        (("pretrain-grounding", "--resume", "--out", "nothing.safetensors"), 1, "there is no run here"),
        (("train", "--from-cache", "--seed", "9" * 30), 2, "--seed"),
    ],
)
def test_without_a_store_there_must_be_a_run_to_resume(tmp_path, mettle, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, document, _ = mettle(*words)
    assert found == code
    assert message in document["error"]["message"]
