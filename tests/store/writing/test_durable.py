"""Files appear whole or not at all; a full disk is an error with numbers, and leaves nothing behind."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mettle_cache.errors import NoRoomError, StoreError
from mettle_cache.store.writing.durable import (
    free_bytes,
    make_folder,
    remove_files,
    write_atomically,
    write_file,
    write_files,
)


def test_buffers_follow_one_another(tmp_path):
    write_files([(tmp_path / "a", [b"one", memoryview(b"two")]), (tmp_path / "b", [b""])])
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert (tmp_path / "b").read_bytes() == b""
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_poller_never_sees_a_short_file(tmp_path):
    path, size, stop = tmp_path / "shard", 1 << 20, threading.Event()
    seen = set()

    def poll():
        while not stop.is_set():
            if path.exists():
                seen.add(len(path.read_bytes()))

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for round_ in range(40):
            write_files([(path, [bytes([round_]) * 1024] * (size // 1024))])
    finally:
        stop.set()
        poller.join()
    assert seen == {size}


def test_the_order_is_data_sync_rename_folder(tmp_path, monkeypatch):
    calls = []
    real = {"fsync": os.fsync, "replace": os.replace}
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real["fsync"](fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"rename {Path(b).name}"), real["replace"](a, b)))
    write_files([(tmp_path / "a", [b"x"]), (tmp_path / "b", [b"y"])])
    assert [Path(call).name.split(".")[0] for call in calls] == ["a", "b", "rename a", "rename b", tmp_path.name]
    assert all(call.endswith(".partial") for call in calls[:2])


def test_nothing_is_left_of_a_write_that_fails_half_way(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(StoreError, match=r"the disk refused .*No such file or directory"):
        write_files([(tmp_path / "a", [b"new"]), (tmp_path / "missing" / "b", [b"new"])])
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_was_needed_and_what_is_free(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoRoomError, match=r"no room at .*: 1,234 bytes were needed, [\d,]+ are free") as caught:
        write_file(tmp_path / "a", b"x" * 1234)
    assert "run the same command again" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"the disk refused .*a: Input/output error"):
        write_file(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_file_size_limit_is_no_room(tmp_path):
    script = (
        "import sys, pathlib; from mettle_cache.store.writing.durable import write_file\n"
        "from mettle_cache.errors import NoRoomError\n"
        "try: write_file(pathlib.Path(sys.argv[1]), bytes(100_000))\n"
        "except NoRoomError as error: print(error.message)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=limit_file_size)
    assert "100,000 bytes were needed" in run.stdout
    assert "File too large" in run.stdout
    assert os.listdir(tmp_path) == []


def test_folders_are_made_with_their_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(StoreError, match=r"the disk refused .*a"):
        make_folder(tmp_path / "a" / "b")


def test_removing_what_is_not_there_is_no_error(tmp_path):
    (tmp_path / "a").touch()
    remove_files([tmp_path / "a", tmp_path / "b"])
    assert os.listdir(tmp_path) == []


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path):
    status = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "x" / "y.zarr") == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)


def test_a_reader_never_sees_a_part_of_a_file(tmp_path):
    path, seen, done = tmp_path / "x", set(), threading.Event()
    write_atomically(path, lambda partial: partial.write_bytes(b"a" * 100_000))

    def poll():
        while not done.is_set():
            content = path.read_bytes()
            seen.add((len(content), content[:1]))

    reader = threading.Thread(target=poll)
    reader.start()
    for letter in (b"b", b"c") * 20:

        def write(partial, letter=letter):
            with partial.open("wb") as opened:
                for _ in range(10):
                    opened.write(letter * 10_000)
                    opened.flush()

        write_atomically(path, write)
    done.set()
    reader.join()
    assert {length for length, _ in seen} == {100_000}


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path, failure):
    (tmp_path / "x").write_text("old")

    def write(partial):
        partial.write_text("half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(tmp_path / "x", write)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"x": "old"}


def test_a_folder_that_refuses_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"the disk refused .*gone.x"):
        write_atomically(tmp_path / "gone" / "x", lambda partial: partial.write_text("x"))
    assert os.listdir(tmp_path) == []
