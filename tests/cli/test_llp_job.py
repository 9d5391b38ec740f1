"""LLP from files to the ten scores through the commands, with nothing given that defaults can serve."""

from pathlib import Path

import pytest

from mettle_cache.cli.main import run
from mettle_cache.datasets.synthetic.llp import write_demo_llp
from tests.cli.conftest import BACKBONES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_demo_llp(tmp_path / "data" / "AVVP", train=6, val=3, test=4, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_media_to_ten_scores_with_defaults(folder, mettle, capsys):
    code, bill, _ = mettle("plan", "--dataset", "llp", *BACKBONES, "--no-measure")
    assert code == 0
    code, extracted, err = mettle("extract", "--dataset", "llp", *BACKBONES)
    assert (code, extracted["written"], extracted["failed"]) == (0, 13, 0)
    assert extracted["store"] == "cache/llp-test_vit@64-test_efficientnet@64.zarr"
    assert "AVVP_eval_audio.csv: SHA-256 " in err
    assert (bill["chosen"]["layers"], bill["chosen"]["nbytes"]) == ("stages", extracted["nbytes"])
    of_all = [offer for offer in bill["bills"] if (offer["layers"], offer["codec"]) == ("all", "int8")]
    assert of_all[0]["nbytes"] > extracted["nbytes"]

    code, facts, _ = mettle("info", extracted["store"])
    # the last block of each stage, and no other, is what the task reads
    assert all(stage["layers"] == 1 for stage in facts["stages"])

    code, trained, _ = mettle("train", "--from-cache", "--set", "train.epochs=1", "--set", "lcd.heads=1")
    assert (code, trained["recipe"], trained["metric"]) == (0, "llp-small", "segment_type_av")

    code, scored, _ = mettle("evaluate", trained["out"])
    assert (code, scored["samples"], len(scored["scores"])) == (0, 4, 11)
    assert all(0 <= score <= 100 for score in scored["scores"].values())
    assert [line.partition(":")[0] for line in scored["details"]["dense_annotations"]] == [
        "AVVP_eval_audio.csv",
        "AVVP_eval_visual.csv",
    ]
    assert Path(scored["predictions"]).is_file()

    assert run(["evaluate", trained["out"]]) == 0
    out = capsys.readouterr().out
    assert "score             ours" in out
    assert "segment_type_av" in out
    assert "nothing predicted" in out


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("AVVP_train.csv", "../../../../x_0_10\tDog", "is not <id of 11"),
        ("AVVP_eval_visual.csv", "x\t0.5\t3\tDog", "are not whole seconds"),
    ],
)
def test_a_hostile_row_ends_extraction_with_file_and_line_before_anything_is_written(folder, mettle, name, line, what):
    path = folder / "data" / "AVVP" / name
    number = len(path.read_text().splitlines()) + 1
    with path.open("a") as file:
        file.write(f"{line}\n")
    code, failed, _ = mettle("extract", "--dataset", "llp", *BACKBONES)
    assert code == 1
    assert f"{name}:{number}: " in failed["error"]["message"]
    assert what in failed["error"]["message"]
    assert not (folder / "cache").exists()


def test_evaluating_the_weakly_labelled_split_says_which_have_dense_labels(folder, mettle):
    assert mettle("extract", "--dataset", "llp", *BACKBONES)[0] == 0
    _, trained, _ = mettle("train", "--from-cache", "--set", "train.epochs=1", "--set", "lcd.heads=1")
    code, failed, _ = mettle("evaluate", trained["out"], "--split", "train")
    assert (code, failed["error"]["hint"]) == (2, "val and test have dense annotations")
