"""The notes of which asset a clip has, against the annotations and the files that the program writes by itself."""

import csv
import json
import subprocess
import sys

import pytest

from tests.integration.composed import SETS, ComposedSet, compose_set

pytestmark = pytest.mark.realdata


def read_groups(path):
    with path.open(newline="", encoding="utf-8") as file:
        return {row["clip"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def assets(realdata):
    """The class of each file of the pack, and the names of classes in AVE."""
    classes = json.loads((realdata / "assets" / "assets.json").read_text(encoding="utf-8"))["classes"]
    class_of = {one["file"]: name for name, made in classes.items() for k in ("pictures", "sounds") for one in made[k]}
    return class_of, {name: made["names"]["ave"] for name, made in classes.items() if "ave" in made["names"]}


def test_aves_assets_are_of_the_annotated_category(realdata, assets, tmp_path):
    class_of, label_of = assets
    groups = read_groups(compose_set(realdata, ComposedSet("ave", "ave", 20, 5, 10), tmp_path / "ave"))
    lines = (tmp_path / "ave" / "Annotations.txt").read_text(encoding="utf-8").splitlines()[1:]
    category_of = {line.split("&")[1]: line.split("&")[0] for line in lines}
    assert groups.keys() == category_of.keys()
    for clip, row in groups.items():
        for asset in (row["picture"], row["recording"]):
            assert label_of[class_of[asset]] == category_of[clip]


@pytest.mark.parametrize("dataset", SETS)
def test_taking_notes_changes_nothing(realdata, tmp_path, dataset):
    """Every file is the one that the program writes alone, and every clip has a line."""
    made = ComposedSet(dataset, SETS[dataset].program, 12, 2, 4)
    groups = read_groups(compose_set(realdata, made, tmp_path / "noted", seed=3))
    command = [sys.executable, realdata / "compose.py", made.program, "--out", tmp_path / "plain", "--seed", "3"]
    subprocess.run([*command, *made.sizes], check=True)
    files = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()}
    for name in files:
        assert (tmp_path / "noted" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert len(groups) == 18
