"""Whatever ends an extraction, the next one goes on, and the store's bytes are those of an uninterrupted one."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.cli.conftest import EXTRACT, REPOSITORY
from tests.pipelines.extraction import tree, write_clips


def command(data, out):
    return [*EXTRACT, "--root", data, "--out", out]


def commits(out):
    return sum(log.read_bytes().count(b"\n") for log in (out / "commits").glob("*.jsonl"))


def wait_for_commits(child, out, count):
    """Wait until a child has committed that many clips, or ended."""
    while child.poll() is None and commits(out) < count:
        time.sleep(0.002)


def finish(child):
    out, err = child.communicate(timeout=120)
    assert "Traceback" not in err, err
    return child.returncode, out, err


@pytest.mark.slow
def test_kill_9_then_resume_gives_the_same_bytes(process, data, whole, tmp_path):
    out = tmp_path / "s.zarr"
    for count in (1, 5):
        child = process(*command(data, out))
        wait_for_commits(child, out, count)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert not (out / "READY").exists()
    done = commits(out)
    code, text, _ = finish(process(*command(data, out), "--json"))
    assert code == 0
    assert json.loads(text)["skipped"] >= done - 2
    assert tree(out) == tree(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kill_9_at_any_moment(process, data, whole, tmp_path, seed):
    out, chance = tmp_path / "s.zarr", random.Random(seed)
    for _ in range(4):
        child = process(*command(data, out))
        wait_for_commits(child, out, commits(out) + 1)
        time.sleep(chance.uniform(0, 0.1))
        child.kill()
        child.wait()
    assert finish(process(*command(data, out)))[0] == 0
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_is_130_and_says_how_to_resume(process, data, whole, tmp_path, number):
    out = tmp_path / "s.zarr"
    child = process(*command(data, out), "--json")
    wait_for_commits(child, out, 1)
    child.send_signal(number)
    code, text, err = finish(child)
    assert code == 130
    assert json.loads(text)["error"]["kind"] == "InterruptedRunError"
    assert "stopping; the clips that are being written are finished" in err
    assert "run the same command again" in err
    assert 1 <= commits(out) < 12
    assert finish(process(*command(data, out)))[0] == 0
    assert tree(out) == tree(whole)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_the_workers_too(process, data, whole, tmp_path):
    """A terminal signals the whole process group; only the coordinator may act on it."""
    out = tmp_path / "s.zarr"
    child = process(*command(data, out), "--workers", "2", start_new_session=True)
    wait_for_commits(child, out, 1)
    os.killpg(child.pid, signal.SIGINT)
    code, _, err = finish(child)
    assert code == 130
    assert "run the same command again" in err
    assert finish(process(*command(data, out)))[0] == 0
    assert tree(out) == tree(whole)


@pytest.mark.slow
def test_a_full_disk_is_a_message_and_resumable(process, data, whole, tmp_path):
    """The file size limit stands in for the disk: writing beyond it fails as writing to a full disk does."""
    out = tmp_path / "s.zarr"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    code, text, err = finish(process(*command(data, out), "--json", preexec_fn=limit))
    assert code == 1
    assert json.loads(text)["error"]["kind"] == "NoRoomError"
    assert str(out) in err
    assert "next:" in err
    assert not (out / "READY").exists()
    assert finish(process(*command(data, out)))[0] == 0
    assert tree(out) == tree(whole)


@pytest.fixture
def small_disk(tmp_path):
    """Make a file system of that many bytes, where this user may mount one."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def mount(size):
        call = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)]
        if subprocess.run(call, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs root")
        return mounted

    yield mount
    subprocess.run(["umount", str(mounted)], capture_output=True, check=False)


def shard_bytes(store):
    return sum(path.stat().st_size for path in store.rglob("c.*"))


def test_a_disk_that_is_too_small_is_refused_before_any_work(small_disk, data, whole, mettle):
    out = small_disk(shard_bytes(whole) // 2) / "s.zarr"
    code, document, _ = mettle(*command(data, out))
    assert code == 1
    assert document["error"]["kind"] == "NoRoomError"
    assert "are free there" in document["error"]["message"]
    assert commits(out) == 0


@pytest.mark.slow
def test_a_disk_that_fills_up_on_the_way_keeps_what_is_done(small_disk, data, whole, tmp_path, mettle, process):
    disk = small_disk(4 * shard_bytes(whole))
    out = disk / "s.zarr"
    child = process(*command(data, out), "--json")
    wait_for_commits(child, out, 1)
    # somebody else takes what is left
    with (disk / "other").open("wb", buffering=0) as other, suppress(OSError):
        while other.write(bytes(4096)):
            pass
    code, text, _ = finish(child)
    assert code == 1
    error = json.loads(text)["error"]
    assert error["kind"] == "NoRoomError"
    assert error["hint"]
    done = commits(out)
    assert 0 < done < 12
    larger = shutil.copytree(out, tmp_path / "larger.zarr")
    code, report, _ = mettle(*command(data, larger))
    assert (code, report["skipped"]) == (0, done)
    assert tree(larger) == tree(whole)


@pytest.mark.slow
def test_two_at_once_on_one_store_do_not_mix(process, data, whole, tmp_path):
    out = tmp_path / "s.zarr"
    first = process(*command(data, out))
    wait_for_commits(first, out, 1)
    second = finish(process(*command(data, out)))
    assert finish(first)[0] == 0
    # the second came while the first was at work, or found the finished store
    assert second[0] == 0 or (second[0] == 1 and "being written" in second[2])
    assert tree(out) == tree(whole)


def test_help_is_there_in_a_second():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mettle_cache.cli.main", "--help"], cwd=REPOSITORY, capture_output=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert min(times) < 1
    code = (
        "import sys, mettle_cache.cli.main as main; main.build_app();"
        "print([m for m in ('torch', 'zarr', 'dask') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set(process, tmp_path):
    peaks = []
    for count in (8, 80):
        root = write_clips(tmp_path / f"{count}" / "AVE", train=count)
        arguments = ["--root", root, "--out", tmp_path / f"{count}.zarr", "--codec", "float16", "--json"]
        code, text, _ = finish(
            process("extract", "--dataset", "ave", "--visual", "test_vit=random", "--audio", "shared", *arguments)
        )
        assert code == 0
        peaks.append(json.loads(text)["peak_memory"])
    # 72 more clips are 430 MB of decoded pictures and tokens
    assert peaks[1] - peaks[0] < 120e6
