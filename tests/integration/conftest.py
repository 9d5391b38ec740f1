"""Real media: the composing program, its recordings and pictures, and two really pretrained backbones.

They lie outside the repository (licences). ``METTLE_REALDATA`` names their folder; without it, ``../shared/realdata``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def realdata():
    folder = Path(os.environ.get("METTLE_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not (folder / "compose.py").is_file():
        pytest.skip(f"no composing program in {folder}: set METTLE_REALDATA")
    return folder


@pytest.fixture(scope="session")
def compose(realdata, tmp_path_factory):
    """Write a data set once: ``compose("ave", "--layout", "mp4")`` returns its folder."""
    written = {}

    def write(*arguments):
        if arguments not in written:
            out = tmp_path_factory.mktemp("real") / arguments[0]
            subprocess.run(
                [sys.executable, realdata / "compose.py", arguments[0], "--out", out, *arguments[1:]], check=True
            )
            written[arguments] = out
        return written[arguments]

    return write


def mettle(*arguments):
    """Run the real command and return its JSON document."""
    command = [sys.executable, "-m", "mettle_cache.cli.main", *map(str, arguments), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def backbone(realdata):
    """A really pretrained ImageNet CNN, for pictures and log-mel images alike."""
    return f"tf_efficientnet_lite0={realdata / 'weights' / 'tf_efficientnet_lite0.safetensors'}"


def extract_set(dataset, root, backbone, codec, out, *options):
    """Extract with one backbone for both modalities and verify every byte; the report of the extraction."""
    report = mettle(
        *("extract", "--dataset", dataset, "--root", root),
        *("--visual", backbone, "--audio", "shared", "--codec", codec, "--out", out, *options),
    )
    assert report["failed"] == 0
    mettle("verify", out, "--deep")
    return report


def evaluate_heads(store, out, seeds, *switches):
    """Reports of one head a seed, on test."""
    mettle("train", "--from-cache", store, "--seeds", seeds, "--out", out, *switches)
    reports = mettle("evaluate", out)["runs"]
    shutil.rmtree(out)
    return reports
