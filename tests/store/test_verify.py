"""Damage of every kind to every file of a store: verify names it, the reader never gives a number, repair heals it."""

import shutil

import pytest
import torch

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store import StoreWriter, TokenStore, repair_store, verify_store
from mettle_cache.store.format.metadata import load_metadata
from tests.store.tiny import clip_tokens, contents, make_spec, source, write_store

CLIPS = 3


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
    + [f"commits/{shard:08d}.jsonl" for shard in range(2)]
    + [
        f"{array}/{name}"
        for array in ("visual/s1", "visual/s2", "audio/s1")
        for name in ("zarr.json", "c.0.0.0", "c.1.0.0")
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
    first = "c.0" in file or file.endswith("0.jsonl")
    neighbour = file.replace("c.0", "c.1") if "c.0" in file else file.replace("c.1", "c.0")
    neighbour = f"commits/{int(first):08d}.jsonl" if "commits/" in file else neighbour
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
    index_entries = sum(array.index_bytes * array.shards for array in load_metadata(intact).layout)
    shards = sum(len(data) for name, data in contents(intact).items() if "/c." in name)
    assert report.nbytes == sum(calls) == shards - index_entries
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
    write_store(tmp_path / "s.zarr", failed=[2, 3])
    return tmp_path / "s.zarr"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "READY.12-1.partial",
        "visual/s1/c.4.0.0",
        "visual/s1/c.1.0.0",  # every clip of it has failed
        "visual/s1/c.0.0.0.partial",
        "commits/00000004.jsonl",
        "commits/00000000.json",
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
    report = verify_store(with_failed, deep=True)
    assert [str(problem) for problem in report.problems] == [f"{name}: not a file of the store; remove it"]
    assert not report.ok


@pytest.mark.parametrize("name", [".locks/part-0-of-1.lock", ".finish.lock"])
def test_a_lock_that_a_killed_run_left_is_no_stray_and_goes_with_the_next_run(with_failed, name):
    (with_failed / name).parent.mkdir(exist_ok=True)
    (with_failed / name).write_bytes(b"x")
    assert verify_store(with_failed).ok
    write_store(with_failed, failed=[2, 3])
    assert not (with_failed / name).exists()


def test_a_store_that_is_being_written_may_hold_more(tmp_path):
    with StoreWriter.create_or_resume(tmp_path / "s.zarr", make_spec()) as writer:
        writer.pending()
        assert (tmp_path / "s.zarr" / ".locks").exists()
        assert verify_store(tmp_path / "s.zarr").problems == ()


def test_companions_are_left_alone(with_failed):
    (with_failed / "companions" / "bundles").mkdir(parents=True)
    (with_failed / "companions" / "bundles" / "late.npy").write_bytes(b"x")
    assert verify_store(with_failed, deep=True).ok


def test_an_index_that_is_damaged_costs_no_clip(intact, tmp_path):
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    shard = path / "visual/s2/c.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-9] + b"\0" * 9)
    report = verify_store(path, deep=True)
    assert [str(problem) for problem in report.problems] == [
        "visual/s2b01 to visual/s2b03: visual/s2/c.0.0.0: the shard index is damaged"
    ]
    assert repair_store(report) == 0
    with StoreWriter.create_or_resume(path, make_spec(clips=CLIPS)) as writer:
        assert writer.pending() == []
        assert writer.finish().finished
    assert contents(path) == contents(intact)


def test_bytes_in_the_place_of_a_failed_clip_are_named_and_go(tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, failed=[1])
    before = contents(path)
    with (path / "visual/s1/c.0.0.0").open("r+b") as shard:
        shard.seek(300)
        shard.write(b"x")
    assert verify_store(path).ok
    report = verify_store(path, deep=True)
    assert [str(problem) for problem in report.problems] == [
        "visual/s1b01 to visual/s1b02: visual/s1/c.0.0.0: there are bytes where a clip has failed"
    ]
    repair_store(report)
    write_store(path, failed=[1])
    assert contents(path) == before


def test_damage_to_one_line_of_a_log_is_that_of_one_clip(intact, tmp_path):
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    log = path / "commits/00000000.jsonl"
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second.replace(b'"status":"ok"', b'"status":"OK"'))
    report = verify_store(path)
    assert [str(problem).split(": damaged")[0] for problem in report.problems] == [
        "clip clip-1: commits/00000000.jsonl"
    ]
    assert report.damaged == (1,)
    assert repair_store(report) == 1
    assert log.read_bytes() == first


def test_an_unfinished_store_names_what_is_damaged_but_not_what_a_kill_left(tmp_path):
    path = tmp_path / "s.zarr"
    with StoreWriter.create_or_resume(path, make_spec(clips=3)) as writer:
        for clip in (0, 2):
            writer.write_clip(clip, clip_tokens(clip), source=source(clip))
    log, partial = path / "commits/00000000.jsonl", path / "visual/s1/c.0.0.0.partial"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"clip":')
    assert verify_store(path, deep=True).problems == ()
    log.write_bytes(b"nonsense\n" + whole)
    assert [str(problem).split(": Inv")[0] for problem in verify_store(path, deep=True).problems] == [
        "commits/00000000.jsonl: line 1 is no commit record: 1 validation error for _SealedDocument"
    ]
    data = bytearray(partial.read_bytes())
    data[5] ^= 1
    partial.write_bytes(data)
    report = verify_store(path, deep=True)
    assert str(report.problems[-1]) == (
        "clip clip-0, visual/s1b01: visual/s1/c.0.0.0.partial: the tokens are not those that were committed"
    )
    repair_store(report)
    assert not log.exists()
    assert verify_store(path, deep=True).state == "unfinished"
    write_store(path, make_spec(clips=3))
    write_store(tmp_path / "whole.zarr", make_spec(clips=3))
    assert contents(path) == contents(tmp_path / "whole.zarr")
