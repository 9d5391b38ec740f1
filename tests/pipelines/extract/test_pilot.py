"""A codec's pilot in an extraction: run once, and taken from the store afterwards."""

import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import MediaError, StoreCorruptError, StoreKeyError, UsageError
from mettle_cache.pipelines.extract import run
from mettle_cache.pipelines.extract.extractor import Extractor, build_extractor
from mettle_cache.pipelines.extract.failures import EveryClipFailsError
from mettle_cache.pipelines.extract.pilot import with_static_arrays
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store import describe_store, verify_store
from mettle_cache.store.format.codecs import CODECS, encode_layers
from tests.pipelines.extraction import tiny, tree, write_clips
from tests.pipelines.listener import Listener
from tests.store import toy_codecs


@pytest.fixture(scope="module", autouse=True)
def installed():
    CODECS.register(toy_codecs.SIX)
    yield
    CODECS.unregister("six")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("pilot") / "AVE", train=2)


def test_an_extraction_runs_the_pilot_once_and_resumes_without_it(root, tmp_path, monkeypatch):
    whole = tmp_path / "whole.zarr"
    assert extract(tiny(root, whole, codec="six", layers="stages")).ok
    assert verify_store(whole, deep=True).ok

    stopped = tmp_path / "stopped.zarr"
    extract(tiny(root, stopped, codec="six", layers="stages", part=(1, 2)))
    monkeypatch.setattr(toy_codecs.SixBitPilot, "add", lambda *_: pytest.fail("a second pilot"))
    assert extract(tiny(root, stopped, codec="six", layers="stages")).ok
    assert tree(stopped) == tree(whole)


def arrays_of(extractor, config, progress=None):
    with with_static_arrays(extractor, config, config.out, progress or Silent()) as ready:
        return ready.static


def training_of(dataset):
    """Places of training clips among all."""
    train = {sample["clip"] for sample in dataset.samples.to_pylist() if sample["split"] == "train"}
    return [index for index, clip in enumerate(dataset.clips) if clip.id in train]


def levels_of(extractor, frames):
    """What the toy's pilot makes of frames that each went through the backbones with all of its own clip."""
    pilot = extractor.codec.pilot(extractor.layers)
    tokens = {}
    for index, segment in frames:
        if index not in tokens:
            prepared = extractor.prepare(index)
            inputs = {place: [x[place] for x in prepared.inputs] for place in range(extractor.frames_a_pass)}
            tokens[index] = extractor.frame_tokens(inputs)
        pilot.add({name: x.unsqueeze(0) for name, x in tokens[index][segment].items()})
    return {name: arrays["levels"] for name, arrays in pilot.finish().items()}


def assert_levels(static, expected):
    assert static.keys() == expected.keys()
    for layer, arrays in static.items():
        assert torch.allclose(arrays["levels"], expected[layer], atol=1e-4)


def test_the_static_arrays_are_what_the_pilot_makes_of_training_clips(tmp_path):
    """The toy looks at the first two segments of each of the first clips, until it has six."""
    root = write_clips(tmp_path / "AVE", train=3)
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, open_dataset("ave", root))
    training = training_of(extractor.dataset)
    assert len(training) == 3 < len(extractor.dataset.clips)
    expected = levels_of(extractor, [(index, segment) for index in training for segment in range(2)])
    assert_levels(arrays_of(extractor, config), expected)


def test_a_frames_tokens_do_not_depend_on_what_shares_its_pass(root, tmp_path):
    extractor = build_extractor(tiny(root, tmp_path / "s.zarr"), open_dataset("ave", root))
    one, other = (extractor.prepare(index).inputs for index in (0, 1))
    among = {place: [x[place] for x in (one if place == 3 else other)] for place in range(extractor.frames_a_pass)}
    with reproducible_passes(extractor.device):
        alone = extractor.frame_tokens({3: among[3]})[0]
        shared = extractor.frame_tokens(among)[3]
        assert alone.keys() == {layer.name for layer in extractor.layers}
        assert all(torch.equal(x, shared[name]) for name, x in alone.items())
        whole = extractor.encode([extractor.prepare(0)])[0]
    codes = encode_layers({name: x.unsqueeze(0) for name, x in alone.items()}, extractor.codec)
    assert all(torch.equal(tokens.codes[0], whole[name].codes[3]) for name, tokens in codes.items())


def test_a_clip_that_cannot_be_decoded_is_passed_over(tmp_path):
    root = write_clips(tmp_path / "AVE", train=4)
    dataset = open_dataset("ave", root)
    first, broken, *rest = training_of(dataset)
    for file in sorted(path for path in root.rglob(f"*{dataset.clips[broken].id}*") if path.is_file()):
        file.write_bytes(b"nothing that can be decoded")
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, dataset)
    with pytest.raises(MediaError):
        extractor.prepare(broken)
    expected = levels_of(extractor, [(index, segment) for index in (first, *rest) for segment in range(2)])
    assert_levels(arrays_of(extractor, config), expected)


def test_frames_whose_pass_fails_are_replaced_by_the_next(root, tmp_path, monkeypatch):
    """Whichever frames share the pass with them, and not by others than if it had shown at once."""
    root = write_clips(tmp_path / "AVE", train=4)
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, open_dataset("ave", root))
    a, b, c, d = training_of(extractor.dataset)
    expected = levels_of(extractor, [(a, 0), (a, 1), (b, 1), (c, 0), (c, 1), (d, 0), (d, 1)])
    bad = extractor.prepare(b).inputs[0][0]
    frame_tokens = Extractor.frame_tokens

    def spoilt(self, frames):
        if any(torch.equal(inputs[0], bad) for inputs in frames.values()):
            raise ValueError("this picture")
        return frame_tokens(self, frames)

    monkeypatch.setattr(Extractor, "frame_tokens", spoilt)
    assert_levels(arrays_of(extractor, config), expected)


def test_where_every_clip_fails_nothing_is_begun(root, tmp_path, monkeypatch):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")

    def fail(self, frames):
        raise ValueError("no such kernel")

    monkeypatch.setattr(Extractor, "frame_tokens", fail)
    with pytest.raises(EveryClipFailsError, match=r"codec six looks at first could be extracted; .* no such kernel"):
        extract(config)
    assert not config.out.exists()


def test_what_a_store_cannot_give_is_looked_for_again(root, tmp_path):
    """Arrays that are damaged, or of other layers."""
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extractor = build_extractor(config, open_dataset("ave", root))
    assert extract(config).ok
    whole = tree(config.out)
    stored = arrays_of(extractor, config)
    every = arrays_of(build_extractor(replace(config, layers="all"), extractor.dataset), config)
    assert set(every) > set(stored) == {layer.name for layer in extractor.layers}
    for file in config.out.glob("static/*/*/c.*"):
        file.write_bytes(b"damaged")
    assert extract(config).skipped == 4
    assert tree(config.out) == whole


@pytest.mark.parametrize("finished", [True, False])
def test_lost_root_metadata_are_written_again_from_the_arrays_that_lie_there(root, tmp_path, monkeypatch, finished):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages", part=(0, 1) if finished else (0, 2))
    extract(config)
    whole = tree(config.out)
    with monkeypatch.context() as patch:
        patch.setattr(toy_codecs.SixBitPilot, "add", lambda *_: pytest.fail("a second pilot"))
        for damage in (Path.unlink, lambda file: file.write_bytes(b"{}")):
            damage(config.out / "zarr.json")
            extract(config)
            assert tree(config.out) == whole
    # with the arrays gone, too, a new pilot gives the same ones
    (config.out / "zarr.json").unlink()
    next(config.out.glob("static/*/*/c.*")).unlink()
    extract(config)
    assert tree(config.out) == whole


def test_arrays_that_are_damaged_and_come_out_otherwise_are_refused_with_what_to_do(root, tmp_path, monkeypatch):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    extract(config)
    copy = shutil.copytree(config.out, tmp_path / "copy.zarr")
    next(config.out.glob("static/*/*/c.*")).unlink()
    with monkeypatch.context() as patch:
        # another processor, another library: another pilot
        patch.setattr(toy_codecs.SixBitPilot, "wanted", 2)
        with pytest.raises(StoreKeyError, match=r"static\.static/") as caught:
            extract(config)
        assert "--codec six=STORE" in caught.value.hint
        (config.out / "zarr.json").unlink()
        with pytest.raises(StoreCorruptError, match="is missing") as caught:
            extract(config)
        assert "--codec six=STORE" in caught.value.hint
        extract(replace(config, codec=f"six={copy}"))
    assert (config.out / "READY").exists()


def test_another_stores_arrays(root, tmp_path, monkeypatch):
    first = tiny(root, tmp_path / "a.zarr", codec="six", layers="stages")
    extract(first)
    own = tiny(write_clips(tmp_path / "AVE", train=1), tmp_path / "own.zarr", codec="six", layers="stages")
    extract(own)
    monkeypatch.setattr(toy_codecs.SixBitPilot, "add", lambda *_: pytest.fail("another pilot"))
    taken = replace(own, codec=f"six={first.out}", out=tmp_path / "b.zarr")
    extract(taken)
    static = {name: data for name, data in tree(first.out).items() if name.startswith("static")}
    assert {name: data for name, data in tree(taken.out).items() if name.startswith("static")} == static
    provenance = describe_store(taken.out)["provenance"]
    assert "--codec six=a.zarr" in provenance["command"]
    # later it has them itself
    extract(replace(taken, codec="six"))
    with pytest.raises(StoreKeyError) as caught:
        extract(replace(own, codec=f"six={first.out}"))
    assert "--codec six alone keeps the store's own" in caught.value.hint
    with pytest.raises(UsageError, match="of other layers: it has no"):
        extract(replace(taken, layers="all", out=tmp_path / "c.zarr"))


def test_of_two_runs_at_once_one_runs_the_pilot_and_the_other_takes_the_result(root, tmp_path, monkeypatch):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    pilots, waiting, building = [], threading.Event(), threading.Lock()
    add, build = toy_codecs.SixBitPilot.add, run.build_extractor

    def slow(self, tokens):
        pilots.append(threading.get_ident())
        assert waiting.wait(30)
        add(self, tokens)

    def build_alone(*arguments):
        with building:  # random weights come from one generator of the process
            return build(*arguments)

    class Waits(Listener):
        def note(self, text):
            super().note(text)
            if "waiting for it" in text:
                waiting.set()

    monkeypatch.setattr(toy_codecs.SixBitPilot, "add", slow)
    monkeypatch.setattr(run, "build_extractor", build_alone)
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(extract, replace(config, part=(part, 2)), Waits()) for part in range(2)]
        assert sorted(part.result().written for part in parts) == [2, 2]
    assert len(set(pilots)) == 1
    assert tree(config.out) == tree(extract(replace(config, out=tmp_path / "whole.zarr")).store)


def test_a_codec_without_static_arrays_needs_no_pilot(root, tmp_path):
    config = tiny(root, tmp_path / "s.zarr")
    assert arrays_of(build_extractor(config, open_dataset("ave", root)), config) == {}
    with pytest.raises(UsageError, match="codec int8 has no static arrays to take from"):
        extract(replace(config, codec=f"int8={tmp_path}"))


@pytest.mark.parametrize("killed_in", ["pilot", pytest.param("creation", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_before_its_store_is_made_begins_anew(root, tmp_path, killed_in):
    config = tiny(root, tmp_path / "s.zarr", codec="six", layers="stages")
    child = [sys.executable, "-c", KILLED.format(killed_in=killed_in), str(root), str(config.out)]
    assert subprocess.run(child, cwd=Path(__file__).parents[3], check=False).returncode == -signal.SIGKILL
    extract(config)
    assert tree(config.out) == tree(extract(replace(config, out=tmp_path / "whole.zarr")).store)


KILLED = """
import os, signal, sys
from pathlib import Path
from mettle_cache.pipelines.extract import pilot, run
from mettle_cache.store.format.codecs import CODECS
from tests.pipelines.extraction import tiny
from tests.store import toy_codecs

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

CODECS.register(toy_codecs.SIX)
if "{killed_in}" == "pilot":
    add = toy_codecs.SixBitPilot.add
    toy_codecs.SixBitPilot.add = lambda self, tokens: add(self, tokens) if not any(self._seen.values()) else kill()
else:
    run.StoreWriter.create_or_resume = kill
run.extract(tiny(Path(sys.argv[1]), Path(sys.argv[2]), codec="six", layers="stages"))
"""
