"""``mettle pretrain-grounding`` from a folder as a user has it."""

import json
import shlex

from mettle_cache.cli.main import run
from mettle_cache.pipelines.train.recipe import load_recipe
from tests.pipelines.tiny_avqa import write_tiny_avqa


def test_the_newest_store_serves_and_the_head_takes_the_file(tmp_path, monkeypatch, mettle):
    write_tiny_avqa(tmp_path / "cache" / "questions.zarr", 8, 4, 4)
    monkeypatch.chdir(tmp_path)
    code, report, _ = mettle("pretrain-grounding", "--from-cache", "--epochs", "1", "--videos-a-step", "4")
    assert code == 0
    assert report["out"] == "weights/questions-grounding.safetensors"
    assert (tmp_path / report["out"]).is_file()
    switches = ("--set", "lcd.heads=4", "--set", "train.epochs=1", "--set", f"head.init_grounding={report['out']}")
    code, trained, _ = mettle("train", "--from-cache", "--out", "run", *switches)
    assert (code, trained["recipe"]) == (0, "music-avqa-small")


def test_it_says_what_was_written_and_what_comes_next(tmp_path, capsys):
    store = write_tiny_avqa(tmp_path / "store.zarr", 8, 4, 4)
    out = str(tmp_path / "my g@1.safetensors")
    assert run(["pretrain-grounding", "--from-cache", str(store.path), "--out", out, "--epochs", "1"]) == 0
    text = capsys.readouterr().out
    assert f"written    {out}" in text
    assert "% of the val pairs told rightly (50 by chance)" in text
    (proposed,) = [line for line in text.splitlines() if line.startswith("next ")]
    *command, override = shlex.split(proposed)[1:]
    assert command == ["mettle", "train", "--from-cache", "--set"]
    assert load_recipe("music-avqa-small", [override]).head.init_grounding == out


def test_wrong_options_end_with_code_2(tmp_path, mettle):
    store = write_tiny_avqa(tmp_path / "store.zarr", 2, 1, 1)
    code, document, _ = mettle("pretrain-grounding", "--from-cache", store.path, "--videos", "some")
    assert code == 2
    assert "choose one of real, all" in document["error"]["message"]
    code, document, _ = mettle("pretrain-grounding", "--from-cache", tmp_path / "none.zarr")
    assert (code, document["error"]["kind"]) == (2, "StoreMissingError")
    assert json.dumps(document)
