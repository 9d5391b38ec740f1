"""A user's own clips, described by a CSV file, from media to a score without any code."""

from pathlib import Path

import pytest

from mettle_cache.cli.main import run
from mettle_cache.store.reading.token_store import TokenStore
from tests.cli.conftest import BACKBONES
from tests.datasets.folder_files import write_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "mine", seconds=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_csv_file_to_an_accuracy(folder, mettle, capsys):
    own = ("--dataset", "folder", "--root", "mine", "--option", "duration=03")
    code, extracted, err = mettle("extract", *own, *BACKBONES)
    assert (code, extracted["written"], extracted["failed"]) == (0, 8, 0)
    assert "no task learns" not in err
    assert extracted["store"] == "cache/folder-mine-test_vit@64-test_efficientnet@64-duration_3.zarr"
    store = TokenStore.open(Path(extracted["store"]))
    assert (store.segments, store.vocabulary) == (3, {"categories": ["Dog", "Rain, heavy"]})
    assert store.samples["category"].to_pylist()[-1] is None
    assert mettle("verify", extracted["store"], "--deep")[0] == 0

    code, trained, err = mettle("train", "--from-cache", "--set", "train.epochs=2", "--set", "lcd.heads=1")
    assert (code, trained["metric"]) == (0, "accuracy"), err
    code, scored, _ = mettle("evaluate", trained["out"])
    assert (code, scored["samples"]) == (0, 2)
    assert 0 <= scored["scores"]["accuracy"] <= 100
    assert scored["floors"]["always background"] == 50.0
    assert set(scored["details"]["accuracy_by_category"]) == {"Dog", "background"}
    # nobody has published a number for these clips
    assert scored["paper"] is None
    assert scored["comparable"] is False
    assert scored["differs"] == [
        "data: nothing is published of the data set 'folder'",
        *(f"weights: the {m} backbone's are random, not pretrained" for m in ("visual", "audio")),
    ]
    code, _, _ = mettle("train", "--from-cache", "--seed", "1", "--set", "train.epochs=1", "--set", "lcd.heads=1")
    assert code == 0
    assert run(["evaluate", *sorted(str(path) for path in Path("runs").iterdir())]) == 0
    text = capsys.readouterr().out
    assert "always background 50.00" in text
    assert "paper" not in text


def test_what_is_wrong_with_the_table_is_told_before_anything_runs(folder, mettle):
    (folder / "mine" / "clips.csv").write_text("id,split,label\na,dev,Dog\na b,train,Dog\n")
    code, document, _ = mettle("extract", "--dataset", "folder", "--root", "mine", *BACKBONES)
    assert code == 1
    assert "clips.csv:2: the split 'dev' is not one of" in document["error"]["message"]
    assert "clips.csv:3: the id 'a b' is not" in document["error"]["message"]
    assert not (folder / "cache").exists()
