"""Links, pipes, sockets and devices in a store, finished or not: nothing is written through them, nothing waits."""

import os
import shutil
import signal
import stat

import pytest

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, verify_store
from tests.store.tiny import LAYERS, clip_tokens, contents, make_spec, source, write_store

SPEC = make_spec("float16", clips=2, layers=[layer for layer in LAYERS if layer.modality == "audio"])


@pytest.fixture(autouse=True)
def alarm():
    """A wait without end becomes an error."""
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    write_store(path, SPEC)
    return path


@pytest.fixture
def unfinished(tmp_path):
    path = tmp_path / "s.zarr"
    with StoreWriter.create_or_resume(path, SPEC) as writer:
        writer.write_clip(0, clip_tokens(0, "float16", SPEC.layers), source=source(0))
    return path


@pytest.mark.parametrize("root", ["intact", "deleted"])
@pytest.mark.parametrize("name", ["audio", "audio/s1", "commits"])
def test_an_unfinished_store_with_a_linked_folder_is_not_written(unfinished, tmp_path, name, root):
    outside = tmp_path / "outside"
    shutil.move(unfinished / name, outside)
    (unfinished / name).symlink_to(outside)
    if root == "deleted":
        (unfinished / "zarr.json").unlink()
    before = contents(outside)
    for entrance in (lambda path: write_store(path, SPEC), verify_store, describe_store, StoreWriter.join):
        with pytest.raises(StoreCorruptError):
            entrance(unfinished)
    assert contents(outside) == before


def test_a_linked_folder_of_locks_is_refused(unfinished, tmp_path):
    (tmp_path / "outside").mkdir()
    (unfinished / ".locks").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreCorruptError, match=r"\.locks is a link"):
        write_store(unfinished, SPEC)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", [".locks/part-0-of-1.lock", ".finish.lock"])
def test_a_lock_that_is_another_file_is_not_written(unfinished, tmp_path, name, link):
    (tmp_path / "thesis.tex").write_text("mine")
    (unfinished / ".locks").mkdir()
    link(tmp_path / "thesis.tex", unfinished / name)
    write_store(unfinished, SPEC)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def pipe(path):
    os.mkfifo(path)


def socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


def device(path):
    path.symlink_to("/dev/zero")


def root_folder(path):
    path.symlink_to("/")


@pytest.mark.parametrize("kind", [pipe, socket, device, root_folder])
def test_what_is_no_file_is_named_and_written_anew(whole, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    expected = contents(whole)
    for file in expected:
        path = shutil.copytree(whole, tmp_path / "s.zarr")
        (path / file).unlink()
        kind(path / file)
        try:
            assert any(file in str(problem) for problem in verify_store(path, deep=True).problems)
        except MettleError as error:
            assert file in error.message  # noqa: PT017
        with pytest.raises(MettleError):
            TokenStore.open(path).read([0, 1])
        write_store(path, SPEC)
        assert contents(path) == expected, file
        shutil.rmtree(path)


@pytest.mark.parametrize("file", ["READY", "commits/00000000.jsonl", "audio/s1/c.0.0.0", "samples.parquet"])
def test_a_folder_in_a_files_place_is_named(whole, tmp_path, file):
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    (path / file).unlink()
    (path / file).mkdir()
    with pytest.raises(MettleError) as caught:
        write_store(path, SPEC)
    assert file in caught.value.message
    assert "move" in caught.value.hint
