"""What extraction keeps beside a store for methods that replay a backbone's last block."""

import shutil

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.late_bundle import read_block
from mettle_cache.methods.late_block import FrozenLateBlock
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store import TokenStore, verify_store
from tests.pipelines.extraction import tiny, tree, write_clips

VISUAL, AUDIO = "late-visual.safetensors", "late-audio.safetensors"


class Told(Silent):
    """A progress that keeps the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    config = tiny(write_clips(folder / "AVE", train=1), folder / "store.zarr", layers="last:2", codec="float16")
    told = Told()
    assert extract(config, told).ok
    return config, told


def test_the_block_replays_the_stored_tokens(extracted):
    config, told = extracted
    store = TokenStore.open(config.out)
    companion = store.companions[VISUAL]
    block = read_block(companion, VISUAL)
    assert (block.before.name, block.layer.name, block.family) == ("visual/s1b05", "visual/s1b06", "vit")
    late = FrozenLateBlock(companion, VISUAL)
    tokens = store[0]
    norm = torch.nn.functional.layer_norm
    with torch.no_grad():
        expected = norm(
            tokens["visual/s1b06"].floats(), (64,), late.get_buffer("final_weight"), late.get_buffer("final_bias"), 1e-6
        )
        difference = late(tokens["visual/s1b05"].floats()) - expected
    assert difference.abs().max() <= 8e-3 * expected.abs().max()
    assert [note for note in told.notes if "kept beside the store" in note] == [
        "the last block of test_vit@64 (visual) is kept beside the store, for method sherl"
    ]


def test_where_there_is_none_the_companion_says_why(extracted, tmp_path):
    config, _ = extracted
    with pytest.raises(UsageError, match=r"^test_efficientnet@64 \(\w+\) has no attention block to replay$"):
        read_block(TokenStore.open(config.out).companions[AUDIO], AUDIO)
    other = tiny(config.root, tmp_path / "last.zarr", layers="visual/last:1")
    assert extract(other).ok
    with pytest.raises(UsageError, match="the store has no visual/s1b05, whose tokens enter the last block"):
        read_block(TokenStore.open(other.out).companions[VISUAL], VISUAL)


def test_a_finished_store_gets_what_it_lacks(extracted, tmp_path):
    config, _ = extracted
    before = tree(config.out)
    path = tmp_path / "store.zarr"
    shutil.copytree(config.out, path)
    shutil.rmtree(path / "companions")
    ready = (path / "READY").stat().st_mtime_ns
    told = Told()
    report = extract(tiny(config.root, path, layers="last:2", codec="float16"), told)
    assert report.written == 0
    assert any("is kept beside the store" in note for note in told.notes)
    assert tree(path) == before
    assert (path / "READY").stat().st_mtime_ns == ready
    assert verify_store(path, deep=True).ok
