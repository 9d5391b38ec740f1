"""Another package brings a data set, a backbone, a codec, a method, a decoder and a task; nothing of ours changes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "plugin"
CLIPS = {"train": 9, "val": 3, "test": 6}
BROKEN = {
    "METADATA": "Metadata-Version: 2.1\nName: mettle-broken\nVersion: 1.0\n",
    "entry_points.txt": "[mettle_cache.datasets]\nlost = mettle_broken.rows:DATASET\nave = mettle_birds.rows:DATASET\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages: the plug-in, and one whose entry points are of no use."""
    source, site = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN, source)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    result = subprocess.run(
        [*command, "--no-index", "--no-build-isolation", "--target", site, source], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    broken = site / "mettle_broken-1.0.dist-info"
    broken.mkdir()
    for name, text in BROKEN.items():
        (broken / name).write_text(text)
    return site


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Three species, each of its own colour and loudness."""
    root, rng = tmp_path_factory.mktemp("data") / "birds", np.random.default_rng(0)
    (root / "songs").mkdir(parents=True)
    rows = []
    for split, count in CLIPS.items():
        for number in range(count):
            bird, species = f"{split}{number}", number % 3
            (root / "pictures" / bird).mkdir(parents=True)
            for second in range(4):
                picture = rng.integers(0, 80, (72, 96, 3), np.uint8)
                picture[..., species] += 120
                Image.fromarray(picture).save(root / "pictures" / bird / f"{second + 1:04d}.jpg")
            loudness = 0.1 + 0.3 * species
            soundfile.write(root / "songs" / f"{bird}.wav", loudness * np.sin(np.arange(64000) / 8), 16000)
            rows.append((bird, split, ("auk", "bee-eater", "crane")[species]))
    with (root / "birds.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("id", "split", "species"), *rows])
    return root


SERVER = """
import contextlib, io, json, sys
from mettle_cache.cli.main import run
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(json.loads(line))
    print(json.dumps((code, out.getvalue(), err.getvalue())), flush=True)
"""


@pytest.fixture(scope="module")
def mettle(site, tmp_path_factory):
    """Run a command in a process beside the installed plug-in: exit code, JSON document, stderr.

    It is one process for all commands, because each would load the libraries again.
    """
    folder = tmp_path_factory.mktemp("work")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes) as server:

        def call(*arguments):
            server.stdin.write(json.dumps([*map(str, arguments), "--json"]) + "\n")
            server.stdin.flush()
            code, out, err = json.loads(server.stdout.readline())
            assert "Traceback" not in err
            return code, json.loads(out), err

        call.folder = folder
        yield call
        server.stdin.close()


@pytest.fixture(scope="module")
def store(mettle, birds):
    """Extracted by two worker processes, which have to find the plug-in for themselves."""
    backbones = ("--visual", "patches", "--audio", "patches")
    arguments = ("--dataset", "birds", "--root", birds, *backbones, "--codec", "six-bit", "--workers", "2")
    code, report, _ = mettle("extract", *arguments)
    assert code == 0
    assert (report["written"], report["failed"]) == (sum(CLIPS.values()), 0)
    return mettle.folder / report["store"]


@pytest.fixture(scope="module")
def run(mettle, store):
    """The newest store, trained by the recipe that its task names."""
    code, report, _ = mettle("train", "--from-cache", "--out", "run")
    assert code == 0
    assert report["recipe"] == "species"
    assert report["metric"] == "accuracy"
    assert {"loss_species", "loss_auxiliary_penalty"} <= report["history"][0].keys()
    return mettle.folder / "run"


def test_its_store_is_whole(mettle, store):
    code, report, _ = mettle("verify", store, "--deep")
    assert (code, report["problems"]) == (0, [])


def test_its_head_learns(mettle, run):
    code, report, _ = mettle("evaluate", run)
    assert code == 0
    assert report["scores"]["accuracy"] > report["floors"]["always the commonest"] + 30
    assert report["paper"] is None


def test_its_head_is_exported(mettle, run):
    assert mettle("export", run, "--out", "head.safetensors")[0] == 0
    assert (mettle.folder / "head.safetensors").stat().st_size > 0


def test_our_methods_take_its_store_and_our_decoders_do_not(mettle, store):
    settings = ("--set", "method=lcd", "--set", "lcd.heads=4", "--set", "lcd.dim=8", "--set", "train.epochs=2")
    assert mettle("train", "--from-cache", store, *settings, "--out", "lcd")[0] == 0
    code, report, _ = mettle("train", "--from-cache", store, "--set", "head.decoder=psp29", "--out", "psp")
    assert code == 2
    assert "psp29" in report["error"]["message"]


def test_a_broken_plug_in_is_a_line_and_not_a_crash(mettle):
    code, report, errors = mettle("datasets")
    assert code == 0
    listed = json.dumps(report) + errors
    assert "birds" in listed
    assert "mettle-broken" in listed
    assert "No module named 'mettle_broken'" in listed
    assert "its row is called 'birds'" in listed
    code, report, _ = mettle("extract", "--dataset", "lost")
    assert code != 0
    assert "mettle-broken" in report["error"]["message"]


def test_the_documentation_shows_the_package_as_it_is():
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)\n```", text, flags=re.DOTALL)
    assert len(blocks) > 8
    for name, block in blocks:
        source = (PLUGIN / name).read_text("utf-8")
        # a method stands in the guide without the indentation of its class
        method = re.sub(r"^ {4}", "", source, flags=re.MULTILINE)
        assert block in source or re.sub(r"\n{3,}", "\n\n", block) in method, name
