"""The commands that only tell: params, datasets, backbones."""

import json

import pytest

from mettle_cache.cli.main import run


@pytest.fixture
def document(capsys):
    def of(*arguments):
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return of


def test_params_are_within_the_papers_rounding(document):
    rows = {row["setting"]: row for row in document("params")}
    paper = {"ave-swin-htsat": 338.0, "ave-swin-shared": 364.4, "ave-vit-shared": 532.2, "ave-resnext-htsat": 151.6}
    for setting, total in paper.items():
        assert rows[setting]["paper_total_m"] == total
        assert abs(rows[setting]["total_m"] - total) <= 0.05
        assert abs(rows[setting]["difference_m"]) <= 0.05
    # segmentation: HTS-AT is counted as trainable, and what our head really trains stands beside
    best = rows["avs-s4-swin-htsat"]
    assert best["trainable_percent"] == pytest.approx(21.6, abs=0.05)
    assert best["trained_m"] == pytest.approx(30.58, abs=0.01)
    assert "No reading fits all three published totals exactly" in best["counting"]


def test_params_state_each_counting_rule_once(capsys):
    assert run(["params"]) == 0
    rules = capsys.readouterr().out.partition("\n\n")[2].replace("\n  ", " ").splitlines()
    assert rules[0].startswith("ave-swin-htsat, ave-swin-shared, ave-vit-shared, ave-resnext-htsat: whole checkpoints")
    assert len({line.partition(": ")[2] for line in rules}) == len(rules)


def test_options_of_a_data_set_are_listed(capsys):
    assert run(["datasets"]) == 0
    text = capsys.readouterr().out
    assert "\n  --option train_frames=1|5  (default 1)" in text.partition("\navs-s4: ")[2]
    assert "\n  --option duration=1..600  (default 10)" in text.partition("\nfolder: ")[2]


def test_datasets_and_backbones_name_what_the_issue_names(document):
    assert {"ave", "music-avqa", "avs-s4", "avs-ms3"} <= {entry["name"] for entry in document("datasets")["datasets"]}
    backbones = {entry["name"]: entry for entry in document("backbones")["backbones"]}
    assert {name: len(entry["layers"]) for name, entry in backbones.items()} == {
        "swinv2_l": 24,
        "vit_l16": 24,
        "resnext101": 4,
        "htsat": 12,
    }
    assert backbones["htsat"]["frozen_parameters"] == 31_325_143


def test_datasets_say_what_is_in_their_places(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "AVE").mkdir(parents=True)
    (tmp_path / "data" / "AVVP").mkdir()
    (tmp_path / "data" / "AVVP" / "file").touch()
    there = {row["name"]: row["there"] for row in document("datasets")["datasets"]}
    assert (there["ave"], there["llp"], there["folder"]) == ("an empty folder", "something", "nothing")
