"""Files that no store has are found in a finished store, and only there."""

import pytest

from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.writer import StoreWriter
from tests.store.tiny import make_spec, write_store


@pytest.fixture
def path(tmp_path):
    write_store(tmp_path / "s.zarr", failed=[3])
    return tmp_path / "s.zarr"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "READY.12-1.partial",
        "visual/s1/c.4.0.0.0.0",
        "visual/s1/c.3.0.0.0.0",  # of a clip that failed
        "commits/00000004.json",
        "visual/s3/zarr.json",
    ],
)
def test_a_file_that_does_not_belong_is_named(path, name):
    assert verify_store(path).ok
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"x")
    report = verify_store(path)
    assert [str(problem) for problem in report.problems] == [f"{name}: not a file of the store; remove it"]
    assert not report.ok


@pytest.mark.parametrize("name", [".locks/part-0-of-1.lock", ".finish.lock"])
def test_a_lock_that_a_killed_run_left_is_no_stray_and_goes_with_the_next_run(path, name):
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"x")
    assert verify_store(path).ok
    write_store(path, failed=[3])
    assert not (path / name).exists()


def test_a_store_that_is_being_written_may_hold_more(tmp_path):
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", make_spec()) as writer:
        writer.pending()
        assert (tmp_path / "s.zarr" / ".locks").exists()
        assert verify_store(tmp_path / "s.zarr").problems == ()
