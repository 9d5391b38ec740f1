from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from mettle_cache.datasets.media.fault import MediaFileError, require_file, require_folder


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MediaFileError(Path("a.jpg"), "is missing", hint="copy it")))  # noqa: S301
    assert (error.path, error.what, error.hint) == (Path("a.jpg"), "is missing", "copy it")
    assert str(error) == "a.jpg: is missing\n  next: copy it"


def test_a_file_that_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "link").symlink_to("a")
    assert require_file(tmp_path / "a").st_size == 3
    assert require_file(tmp_path / "link").st_size == 3
    require_folder(tmp_path)


def test_what_is_not_a_file_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, what in {
        "none": "is missing",
        "file/below": "is missing",
        "empty": r"is empty \(0 bytes\)",
        ".": "is a folder where a file should be",
        "dangling": "is a link to nothing",
        "loop": "cannot be read: Too many levels of symbolic links",
        "pipe": "is not a regular file",
    }.items():
        with pytest.raises(MediaFileError, match=what):
            require_file(tmp_path / name)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaFileError, match="is a file where a folder should be"):
        require_folder(tmp_path / "file")
    with pytest.raises(MediaFileError, match="is missing"):
        require_folder(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(MediaFileError, match="cannot be read: permission denied"):
        require_file(tmp_path / "secret")
