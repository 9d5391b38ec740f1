"""Extraction in a codec of the family klt: one pilot, the same bytes however it is run, and what recoding gives."""

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.store import TokenStore, verify_store
from tests.datasets.avsbench_files import write_s4
from tests.pipelines.extraction import tiny, tree, write_clips

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.progress import PlainProgress
from tests.pipelines.extraction import tiny

root, out, part = sys.argv[1:]
config = tiny(Path(root), Path(out), codec="klt1.5", layers="last:2", part=(int(part), 2) if part else (0, 1))
print(flush=True)
extract(config, PlainProgress())
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("klt") / "AVE", train=6)


def config(root, out, **changes):
    return tiny(root, out, **{"codec": "klt1.5", "layers": "last:2", **changes})


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    assert extract(config(root, out)).ok
    return out


def start(root, out, part=""):
    command = [sys.executable, "-c", SCRIPT, str(root), str(out), part]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_recoding_gives_what_extraction_gives_but_for_the_rounding_of_float16(root, whole, tmp_path):
    extract(config(root, tmp_path / "floats.zarr", codec="float16"))
    recode(RecodeConfig(store=tmp_path / "floats.zarr", codec=f"klt1.5={whole}", out=tmp_path / "s.zarr"))
    assert verify_store(whole, deep=True).ok
    assert verify_store(tmp_path / "s.zarr", deep=True).ok
    direct, recoded = TokenStore.open(whole), TokenStore.open(tmp_path / "s.zarr")
    assert recoded.key["static"] == direct.key["static"]
    for name, tokens in recoded[0].items():
        expected = direct[0][name]
        unpack = tokens.format.unpack
        assert (unpack(tokens.codes) == unpack(expected.codes)).float().mean() > 0.99
        assert (tokens.floats() - expected.floats()).norm() < 0.05 * expected.floats().norm()


def test_stages_of_dense_heads_are_stored_in_cells(tmp_path):
    root, out = write_s4(tmp_path / "S4"), tmp_path / "s.zarr"
    backbone = "test_efficientnet@128=random"
    assert extract(config(root, out, dataset="avs-s4", visual=backbone, audio="shared", layers=None)).ok
    store = TokenStore.open(out)
    cells = {layer.array: layer.cell for layer in store.layers}
    assert set(cells.values()) == {1, 2}
    assert all(cells[array] == 1 for array in cells if array.startswith("audio"))
    assert [layer["cell"] for layer in store.key["layers"] if "cell" in layer] == [2] * list(cells.values()).count(2)
    assert all(tokens.floats().isfinite().all() for tokens in store[0].values())


@pytest.mark.slow
def test_two_parts_in_two_processes_at_once_share_a_pilot(root, whole, tmp_path):
    processes = [start(root, tmp_path / "s.zarr", part) for part in "01"]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum("look at frames for codec klt1.5: 500 frames" in text for text in said) == 1
    assert tree(tmp_path / "s.zarr") == tree(whole)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(root, whole, tmp_path):
    chance = random.Random(1)
    for _ in range(6):
        process = start(root, tmp_path / "s.zarr")
        time.sleep(chance.uniform(0.2, 5))
        process.kill()
        process.communicate()
    extract(config(root, tmp_path / "s.zarr"))
    assert tree(tmp_path / "s.zarr") == tree(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*Port 8787 is already in use")
def test_worker_processes_take_the_arrays_from_the_store(root, whole, tmp_path):
    assert extract(config(root, tmp_path / "s.zarr", workers=2)).written == 8
    assert tree(tmp_path / "s.zarr") == tree(whole)
    taken = replace(config(root, tmp_path / "t.zarr", workers=2), codec=f"klt1.5={whole}")
    assert extract(taken).written == 8
