"""Damage of every kind to every file of a store: verify names it, the reader never gives a number, repair heals it."""

import shutil

import pytest
import torch

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store import StoreWriter, TokenStore, repair_store, verify_store
from tests.store.tiny import clip_tokens, contents, make_spec, source, write_store

CLIPS = 2


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "s.zarr"
    write_store(path, make_spec(clips=CLIPS))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same store with other tokens and another key."""
    path = tmp_path_factory.mktemp("other") / "s.zarr"
    write_store(path, make_spec("int8", clips=CLIPS, key={"visual": "other"}))
    return path


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "flip": flip,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"\0",
}
FILES = sorted(
    ["zarr.json", "visual/zarr.json", "audio/zarr.json", "READY", "manifest.parquet", "samples.parquet", "clips.json"]
    + [f"commits/{clip:08d}.json" for clip in range(CLIPS)]
    + [
        f"{array}{part}/{name}"
        for array in ("visual/s1", "visual/s2", "audio/s1")
        for part, zeros in (("", ".0.0.0.0"), ("_scale", ".0.0.0"), ("_zero", ".0.0.0"))
        for name in ("zarr.json", *(f"c.{clip}{zeros}" for clip in range(CLIPS)))
    ]
)


def test_the_list_of_files_is_complete(intact):
    assert sorted(contents(intact)) == FILES


def assert_damage_is_loud(path, file):
    """Verification reports it, and reading raises or gives exactly what was encoded."""
    if file == "zarr.json":
        with pytest.raises(StoreCorruptError, match=r"zarr\.json"):
            verify_store(path, deep=True)
    else:
        report = verify_store(path, deep=True)
        assert not report.ok
        assert report.problems or file == "READY"
        assert not report.problems or any(file in str(problem) for problem in report.problems)
    try:
        batch = TokenStore.open(path, check="always").read(range(CLIPS))
    except MettleError as error:
        assert error.hint  # noqa: PT017
        return
    for slot in range(CLIPS):
        for name, tokens in clip_tokens(slot).items():
            assert torch.equal(batch.layers[name].codes[slot], tokens.codes)
            assert torch.equal(batch.layers[name].scale[slot], tokens.scale)


@pytest.mark.parametrize("kind", [*DAMAGES, "deleted"])
@pytest.mark.parametrize("file", FILES)
def test_every_damage_to_every_file_is_found(intact, tmp_path, file, kind):
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    if kind == "deleted":
        (path / file).unlink()
    else:
        (path / file).write_bytes(DAMAGES[kind]((path / file).read_bytes()))
    assert_damage_is_loud(path, file)


@pytest.mark.parametrize("file", [file for file in FILES if "/c." in file or "commits/" in file])
def test_files_of_neighbours_and_of_other_stores_are_found(intact, other, tmp_path, file):
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    clip = "c.0" in file or file.endswith("0.json")
    neighbour = file.replace("c.0", "c.1") if "c.0" in file else file.replace("c.1", "c.0")
    neighbour = f"commits/{int(clip):08d}.json" if "commits/" in file else neighbour
    (path / file).write_bytes((intact / neighbour).read_bytes())
    assert_damage_is_loud(path, file)
    if "commits/" in file:
        (path / file).write_bytes((other / file).read_bytes())
        assert_damage_is_loud(path, file)


def test_an_intact_store_is_ok_and_every_byte_was_read(intact):
    calls = []
    report = verify_store(intact, deep=True, advance=lambda n, nbytes: calls.append(nbytes))
    assert report.ok
    assert report.clips == CLIPS
    shards = sum(len(data) for name, data in contents(intact).items() if "/c." in name)
    assert report.nbytes == sum(calls) == shards
    assert verify_store(intact).ok


def test_an_unfinished_store_is_not_ok_but_not_damaged(tmp_path):
    path = tmp_path / "s.zarr"
    with StoreWriter.create_or_resume(path, make_spec(clips=3)) as writer:
        writer.pending()
        writer.write_clip(0, clip_tokens(0), source=source(0))
    report = verify_store(path, deep=True)
    assert not report.ok
    assert not report.finished
    assert report.problems == ()
    assert (report.clips, report.pending) == (1, 2)


@pytest.mark.parametrize("file", [file for file in FILES if file != "zarr.json"])
def test_repair_and_a_second_run_give_the_bytes_of_the_first(intact, tmp_path, file):
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    (path / file).write_bytes(flip((path / file).read_bytes()))
    repair_store(verify_store(path, deep=True))
    write_store(path, make_spec(clips=CLIPS))
    assert verify_store(path, deep=True).ok
    assert contents(path) == contents(intact)


def test_repair_leaves_an_intact_store_alone(intact):
    before = contents(intact)
    assert repair_store(verify_store(intact, deep=True)) == 0
    assert contents(intact) == before


@pytest.fixture
def with_failed(tmp_path):
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
        "visual/s3",
        "elsewhere",
    ],
)
def test_a_file_that_does_not_belong_is_named(with_failed, name):
    assert verify_store(with_failed).ok
    if name == "visual/s3":
        (with_failed / name).mkdir()
    elif name == "elsewhere":
        (with_failed / name).symlink_to("/")
    else:
        (with_failed / name).write_bytes(b"x")
    report = verify_store(with_failed)
    assert [str(problem) for problem in report.problems] == [f"{name}: not a file of the store; remove it"]
    assert not report.ok


@pytest.mark.parametrize("name", [".locks/part-0-of-1.lock", ".finish.lock"])
def test_a_lock_that_a_killed_run_left_is_no_stray_and_goes_with_the_next_run(with_failed, name):
    (with_failed / name).parent.mkdir(exist_ok=True)
    (with_failed / name).write_bytes(b"x")
    assert verify_store(with_failed).ok
    write_store(with_failed, failed=[3])
    assert not (with_failed / name).exists()


def test_a_store_that_is_being_written_may_hold_more(tmp_path):
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", make_spec()) as writer:
        writer.pending()
        assert (tmp_path / "s.zarr" / ".locks").exists()
        assert verify_store(tmp_path / "s.zarr").problems == ()
