"""A store beside media: what is said of them follows from digests that hashlib takes by hand."""

import hashlib
import json
import shutil
import struct
from dataclasses import replace

import pytest

from mettle_cache.cli.main import run
from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.errors import StoreMissingError
from mettle_cache.pipelines.extract.verify import verify_sources
from mettle_cache.store.writing.writer import StoreWriter
from tests.datasets.avsbench_files import write_ms3
from tests.pipelines.extraction import tree, write_clips
from tests.store.tiny import clip_tokens, make_spec


def by_hand(paths):
    contents = [path.read_bytes() for path in paths]
    return hashlib.blake2b(b"".join(struct.pack("<Q", len(x)) + x for x in contents), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("verify") / "AVE", train=2)


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "AVE")


@pytest.fixture
def store(root, tmp_path):
    """A store that says that it was made of just these media."""
    dataset = open_dataset("ave", root)
    return write(
        tmp_path / "s.zarr",
        dataset,
        {
            clip.id: by_hand([*sorted(clip.frames.iterdir()), clip.audio] if clip.frames.is_dir() else [clip.audio])
            for clip in dataset.clips
        },
    )


def write(out, dataset, sources, key=None):
    """A store of a data set's annotations whose clips were made of media with these digests, by id."""
    spec = replace(make_spec(), dataset=dataset.name, clips=tuple(sources), samples=dataset.samples, key=key or {})
    with StoreWriter.create_or_resume(out, spec) as writer:
        for index in writer.pending():
            writer.write_clip(index, clip_tokens(index), source=sources[writer.clips[index]])
        writer.finish()
    return out


def verify(store, root, capsys):
    """Exit code, document and lines of ``mettle verify --sources``."""
    code = run(["verify", str(store), "--sources", str(root), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert run(["verify", str(store), "--sources", str(root)]) == code
    return code, document, capsys.readouterr().out


def test_media_that_are_the_stores_wherever_they_lie(store, root, tmp_path, capsys):
    root.rename(tmp_path / "moved")
    before = tree(store)
    code, document, lines = verify(store, tmp_path / "moved", capsys)
    assert code == 0
    assert document["ok"]
    assert document["sources"] == {
        "root": str(tmp_path / "moved"),
        "same": 4,
        "changed": {},
        "missing": [],
        "other_annotations": False,
        "ok": True,
    }
    assert "4 clips the same, 0 changed, 0 not there" in lines
    assert tree(store) == before


def test_changed_and_missing_media_are_told_apart(store, root, capsys):
    changed, gone, broken, _ = sorted(open_dataset("ave", root).clips, key=lambda clip: clip.frames.is_dir())
    changed.audio.write_bytes(changed.audio.read_bytes() + b"\0")
    gone.frames.unlink()
    first = sorted(broken.frames.iterdir())[0]
    first.write_bytes(b"")
    code, document, lines = verify(store, root, capsys)
    media = document["sources"]
    assert (code, media["ok"], media["same"], media["missing"]) == (1, False, 1, [gone.id])
    assert set(media["changed"]) == {changed.id, broken.id}
    assert "is empty" in media["changed"][broken.id]
    assert f"changed    {changed.id}: another content in AVE/{changed.id}.mp4" in lines
    assert "--refresh" in lines
    shutil.rmtree(root / "AVE")
    shutil.rmtree(root / "frames")
    code, document, _ = verify(store, root, capsys)
    assert (code, len(document["sources"]["missing"]), document["sources"]["ok"]) == (0, 4, True)


def test_other_annotations_are_noted(store, root, capsys):
    rows = (root / "trainSet.txt").read_text().splitlines()
    (root / "trainSet.txt").write_text("\n".join(rows[1:]) + "\n")
    (root / "valSet.txt").write_text((root / "valSet.txt").read_text() + rows[0] + "\n")
    code, document, lines = verify(store, root, capsys)
    assert (code, document["sources"]["other_annotations"]) == (0, True)
    assert "annotations there are not those of the store" in lines


def test_a_folder_of_other_clips_bears_nothing_out(store, tmp_path, capsys):
    other = tmp_path / "other"
    write_demo_ave(other, train=2, val=1, test=1, seed=9, layout="mixed")
    code, document, lines = verify(store, other, capsys)
    assert (code, document["sources"]["ok"], len(document["sources"]["missing"])) == (1, False, 4)
    assert "nothing there could be compared" in lines


def test_the_options_of_the_data_set_are_those_of_the_store(root, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    clip = next(clip for clip in open_dataset("ave", root).clips if clip.frames.is_dir())
    shutil.copytree(clip.frames, folder / "one")
    shutil.copy(clip.audio, folder / "one.wav")
    (folder / "clips.csv").write_text("id,split,label\none,train,Dog\n")
    pictures = sorted((folder / "one").iterdir())
    # of two seconds, the first and the last picture are read
    sources = {"one": by_hand([pictures[0], pictures[-1], folder / "one.wav"])}
    dataset = open_dataset("folder", folder, {"duration": "2"})
    out = write(tmp_path / "own.zarr", dataset, sources, key={"options": {"duration": "2"}})
    report = verify_sources(out, folder)
    assert (report.same, report.ok) == (1, True)


def test_without_a_store_there_is_nothing_to_compare(root, tmp_path):
    with pytest.raises(StoreMissingError):
        verify_sources(tmp_path / "none.zarr", root)


def test_a_shared_store_is_compared_with_the_sound_files_that_it_heard(tmp_path):
    root = write_ms3(tmp_path / "avs")
    write_ms3(root, waves=False)
    dataset = open_dataset("avs-ms3", root).preferring_sound_files()
    sources = {clip.id: by_hand([clip.frames, clip.audio]) for clip in dataset.clips}
    key = {"backbones": {"audio": {"preprocessing": {"sound_files": "first channel at its own rate"}}}}
    assert verify_sources(write(tmp_path / "heard.zarr", dataset, sources, key), root).same == len(sources)
    assert verify_sources(write(tmp_path / "other.zarr", dataset, sources), root).same == 0
