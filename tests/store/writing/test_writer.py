"""The writer: what it refuses, what it records, and that a store ends the same however it came about."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mettle_cache.errors import NoRoomError, StoreMissingError, UsageError
from mettle_cache.store.format.records import CommitRecord
from mettle_cache.store.format.spec import FORMAT_VERSION
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.verify import verify_store
from mettle_cache.store.writing.durable import PARTIAL
from mettle_cache.store.writing.shard_files import ShardFiles
from mettle_cache.store.writing.writer import StoreWriter
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.store.tiny import CODECS, LAYERS, clip_tokens, contents, make_spec, raw_tokens, source, write_store


def write(writer, clip):
    return writer.write_clip(clip, clip_tokens(clip), source=source(clip))


def test_a_finished_store_holds_nothing_but_itself(path, uninterrupted):
    report = write_store(path)
    assert (report.clips, report.failed, report.pending, report.finished) == (4, 0, 0, True)
    entries = 2 * 2 * 6 * 16 + 2 * 3 * 4  # of the indexes: shards, clips, blocks; a checksum a shard
    assert report.bytes == sum(len(data) for name, data in uninterrupted.items() if "/c." in name) - entries
    assert not [name for name in os.listdir(path) if name.startswith(".") or name.endswith(PARTIAL)]


def test_neither_order_nor_threads_nor_processes_change_the_bytes(path, uninterrupted):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        helper = StoreWriter.join(path)
        pending = writer.pending()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda clip: write((writer, helper)[clip % 2], clip), reversed(pending)))
        assert writer.finish().finished
    assert contents(path) == uninterrupted


def test_parts_make_the_same_store_and_the_last_one_finishes_it(path, uninterrupted):
    writers = [StoreWriter.create_or_resume(path, make_spec()) for _ in range(3)]
    shares = [writer.pending((number, 3)) for number, writer in enumerate(writers)]
    assert shares == [[], [0, 1], [2, 3]]
    for number in (2, 0, 1):
        for clip in shares[number]:
            write(writers[number], clip)
        report = writers[number].finish()
        assert report.finished == (number == 1)
        assert (path / "READY").exists() == report.finished
    assert contents(path) == uninterrupted


def test_two_parts_that_finish_at_once_do_no_harm(path, uninterrupted):
    for _ in range(5):
        shutil.rmtree(path, ignore_errors=True)
        writers = [StoreWriter.create_or_resume(path, make_spec()) for _ in range(2)]
        for number, writer in enumerate(writers):
            for clip in writer.pending((number, 2)):
                write(writer, clip)
        with ThreadPoolExecutor(2) as pool:
            assert all(report.finished for report in pool.map(StoreWriter.finish, writers))
        assert contents(path) == uninterrupted


def test_what_a_killed_writer_left_is_swept_and_written_again(path, uninterrupted):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        writer.pending()
        write(writer, 0)
    with (path / "commits" / "00000000.jsonl").open("ab") as log:
        log.write(b'{"clip":"clip-1","crc')  # killed while it committed
    (path / "visual/s1" / f"c.1.0.0.77-1{PARTIAL}").write_bytes(b"half a copy")
    (path / "commits" / f"00000001.jsonl.77-1{PARTIAL}").write_bytes(b"half")
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert writer.pending() == [1, 2, 3]
        partials = {str(file.relative_to(path)) for file in path.rglob(f"*{PARTIAL}")}
        assert partials == {f"{stage}/c.0.0.0{PARTIAL}" for stage in ("visual/s1", "visual/s2", "audio/s1")}
    write_store(path)
    assert contents(path) == uninterrupted


def test_sweeping_a_part_leaves_other_parts_alone(path):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        theirs = path / "visual/s1" / f"c.1.0.0.77-1{PARTIAL}"
        theirs.write_bytes(b"being written")
        assert writer.pending((0, 2)) == [0, 1]
        assert theirs.exists()


@pytest.mark.parametrize("name", ["visual/s2/c.0.0.0", "commits/00000000.jsonl"])
@pytest.mark.parametrize("damage", ["missing", "short", "of one"])
def test_a_clip_that_is_not_whole_is_pending_again(path, uninterrupted, name, damage):
    write_store(path)
    (path / name).unlink() if damage == "missing" else os.truncate(path / name, 700 if damage == "of one" else 7)
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert writer.pending() == ([1] if damage == "of one" else [0, 1])
    write_store(path)
    if (path / "READY").exists() and contents(path) != uninterrupted:
        pytest.fail("READY vouches for what is not there")
    write_store(path)
    assert contents(path) == uninterrupted


def test_failed_clips_are_recorded_counted_and_tried_again(path, uninterrupted):
    report = write_store(path, failed=[1, 3])
    assert (report.clips, report.failed, report.finished) == (2, 2, True)
    assert not any((path / "visual/s1/c.1.0.0").read_bytes()[216 : 2 * 216])
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert writer.pending(retry_failed=False) == []
        assert writer.pending() == [1, 3]
    assert (path / "READY").exists()
    write_store(path)
    assert contents(path) == uninterrupted


def test_failing_a_clip_removes_what_an_earlier_attempt_left(path, tmp_path):
    write_store(path)
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        writer.forget({1: source(1)})
        writer.fail_clip(1, "no such video", source(1))
        assert writer.finish().finished
    write_store(tmp_path / "other.zarr", failed=[1])
    assert contents(path) == contents(tmp_path / "other.zarr")


def test_ready_goes_before_anything_changes(path, monkeypatch):
    write_store(path)
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        stop = "mettle_cache.store.writing.shard_files.ShardFiles._open_partials"
        monkeypatch.setattr(stop, lambda *_: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            write(writer, 0)
    assert not (path / "READY").exists()
    lines = (path / "commits" / "00000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["clip"] for line in lines] == ["clip-1"]


def test_joining_needs_a_store(path):
    with pytest.raises(StoreMissingError, match="there is no token store"):
        StoreWriter.join(path)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_clip_that_the_store_does_not_have_is_refused(path, index):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        with pytest.raises(UsageError, match=f"there is no clip {index}"):
            writer.write_clip(index, clip_tokens(0), source="")
        with pytest.raises(UsageError, match=f"there is no clip {index}"):
            writer.fail_clip(index, "no")


def shards(path):
    """Those of the second number, and how many blocks they have."""
    blocks = {"visual/s1": 2, "visual/s2": 3, "audio/s1": 1}
    return [(path / stage / "c.1.0.0", count) for stage, count in blocks.items()]


@pytest.mark.parametrize("codec", CODECS)
def test_a_commit_says_what_is_on_disk(path, codec):
    write_store(path, make_spec(codec))
    with (path / "commits" / "00000001.jsonl").open("rb") as log:
        commit = CommitRecord.from_bytes(log.readline())
    decoded = {name: tokens.floats(torch.float64) for name, tokens in clip_tokens(2, codec).items()}
    assert (commit.clip, commit.index, commit.status, commit.format) == ("clip-2", 2, "ok", FORMAT_VERSION)
    assert commit.source == source(2)
    for name, values in decoded.items():
        assert commit.max_abs[name] == pytest.approx(values.abs().max().item(), rel=1e-5)
    assert commit.nbytes == sum(file.stat().st_size - (2 * 16 * blocks + 4) for file, blocks in shards(path)) // 2


def test_a_clip_of_zeros_is_stored_and_not_left_out(path):
    spec = make_spec("float16", clips=1)
    zeros = {
        layer.name: LayerTokens(torch.zeros(2, layer.tokens, layer.width, dtype=torch.half), FLOATS) for layer in LAYERS
    }
    with StoreWriter.create_or_resume(path, spec) as writer:
        writer.pending()
        assert writer.write_clip(0, zeros, source="") > 0
        writer.finish()
    assert verify_store(path, deep=True).ok
    assert np.array_equal(TokenStore.open(path).read([0]).layers[LAYERS[0].name].codes[0], zeros[LAYERS[0].name].codes)


def test_a_full_disk_leaves_a_store_that_resumes(path, uninterrupted, monkeypatch):
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        writer.pending()
        write(writer, 0)
        calls = iter(range(100))
        real = os.pwritev

        def fill_up(descriptor, buffers, offset):
            if next(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(descriptor, buffers, offset)

        monkeypatch.setattr(os, "pwritev", fill_up)
        with pytest.raises(NoRoomError, match="bytes were needed"):
            write(writer, 1)
        monkeypatch.undo()
    assert TokenStore.open(path, allow_unfinished=True).statuses == ("ok", "pending", "pending", "pending")
    write_store(path)
    assert contents(path) == uninterrupted


def test_a_clip_costs_one_sync_a_stage_and_one_of_the_log(path, monkeypatch):
    with StoreWriter.create_or_resume(path, make_spec(clips_per_shard=4)) as writer:
        write(writer, 0)
        synced = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
        write(writer, 1)
        stages = [f"{stage}/c.0.0.0{PARTIAL}" for stage in ("visual/s1", "visual/s2", "audio/s1")]
        assert [os.path.relpath(name, path) for name in synced] == [*stages, "commits/00000000.jsonl"]


def test_clips_that_are_tried_again_in_one_run_take_one_copy_of_their_shard(path, monkeypatch):
    spec = make_spec(clips_per_shard=4)
    write_store(path, spec, failed=[1, 2])
    copies = []
    real = ShardFiles._copy
    monkeypatch.setattr(ShardFiles, "_copy", lambda files, arrays: (copies.append(files.shard), real(files, arrays)))
    write_store(path, spec)
    assert copies == [0]
    assert verify_store(path, deep=True).ok


def test_a_copy_takes_no_damage_along(path, uninterrupted):
    write_store(path, failed=[1])
    shard = path / "visual/s2/c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        assert writer.pending() == [1]
        write(writer, 1)
        assert writer.finish().pending == 1
    write_store(path)
    assert contents(path) == uninterrupted


def test_a_hard_link_of_a_shard_that_is_being_filled_is_not_written_through(path, tmp_path, uninterrupted):
    """As ``cp -al`` makes them for a backup."""
    with StoreWriter.create_or_resume(path, make_spec()) as writer:
        write(writer, 0)
    shutil.copytree(path, tmp_path / "backup", copy_function=os.link)
    before = contents(tmp_path / "backup")
    write_store(path)
    assert contents(path) == uninterrupted
    assert contents(tmp_path / "backup") == before


def test_stored_tokens_are_the_encoded_floats(path):
    write_store(path)
    batch = TokenStore.open(path).read([3])
    for name, x in raw_tokens(3).items():
        error = (batch.layers[name].floats()[0] - x).abs()
        assert (error <= batch.layers[name].scale[0].float().unsqueeze(-2) * 0.6).all()
