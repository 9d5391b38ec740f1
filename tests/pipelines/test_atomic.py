import os
import threading

import pytest

from mettle_cache.errors import StoreError
from mettle_cache.pipelines.atomic import write_atomically


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
