"""Stopped after every single operation on files, a store is unfinished and not damaged, and a run makes it whole."""

import os

import pytest
import torch

from mettle_cache.errors import MettleError, StoreMissingError, StoreUnfinishedError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, repair_store, verify_store
from tests.store.tiny import LAYERS, clip_tokens, contents, make_spec, source, write_store

FEW = [layer for layer in LAYERS if layer.stage == 1]
# two arrays; a shard of two clips and one of one
SPEC = make_spec("float16", clips=3, layers=FEW)
OPERATIONS = ("open", "mkdir", "replace", "unlink", "ftruncate", "pwritev", "write")


class Stopped(BaseException):
    """Stands for a kill: from then on nothing is written or removed any more, whoever tries."""


class Stop:
    """Lets so many operations on files happen, and no more; locks are the kernel's and go with a process.

    What is being written then is written by half.
    """

    def __init__(self, patch, allowed):
        self.left = allowed
        for name in OPERATIONS:
            patch.setattr(os, name, self.counted(getattr(os, name)))
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None)

    def counted(self, operation):
        def call(target, *arguments, **options):
            name = operation.__name__
            changes = name != "open" or arguments[0] & os.O_CREAT
            if changes and ".lock" not in str(target):
                if self.left == 0:
                    self.left = -1
                    if name == "write":
                        operation(target, arguments[0][: len(arguments[0]) // 2])
                    elif name == "pwritev":
                        half = b"".join(arguments[0])
                        operation(target, [half[: len(half) // 2]], arguments[1])
                if self.left <= 0:
                    raise Stopped
                self.left -= 1
            return operation(target, *arguments, **options)

        return call


def stopped_everywhere(tmp_path, prepare, work):
    """The paths of stores, each prepared and then stopped one operation later in ``work``, until it gets through."""
    for allowed in range(400):
        path = tmp_path / f"{allowed}.zarr"
        with pytest.MonkeyPatch.context() as patch:
            Stop(patch, 10**9)
            prepare(path)
        with pytest.MonkeyPatch.context() as patch:
            Stop(patch, allowed)
            try:
                work(path)
            except Stopped:
                pass
            else:
                assert allowed > 2, "nothing was stopped"
                return
        with pytest.MonkeyPatch.context() as patch:
            Stop(patch, 10**9)
            yield path
    pytest.fail("never got through")


def run(path, failed=()):
    write_store(path, SPEC, failed=failed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    run(path)
    return contents(path)


@pytest.fixture(scope="module")
def without_the_second(tmp_path_factory):
    path = tmp_path_factory.mktemp("without") / "s.zarr"
    run(path, failed=[1])
    return contents(path)


def write(path, clip):
    with StoreWriter.create_or_resume(path, SPEC) as writer:
        writer.write_clip(clip, clip_tokens(clip, "float16", FEW), source=source(clip))


def assert_nothing_wrong_is_read(path):
    """What a reader gives of a store that was stopped is what was encoded."""
    try:
        store = TokenStore.open(path, allow_unfinished=True)
    except MettleError:
        return
    with store:
        for clip, status in enumerate(store.statuses):
            if status == "ok":
                for name, tokens in clip_tokens(clip, "float16", FEW).items():
                    assert torch.equal(store[clip][name].codes, tokens.codes)


def assert_unfinished(path):
    try:
        assert verify_store(path, deep=True).state in ("unfinished", "ok")
    except StoreMissingError:
        assert not path.exists() or not list(path.iterdir())
    except StoreUnfinishedError as error:
        assert "same mettle extract" in error.hint  # noqa: PT017


def test_while_it_is_made(tmp_path, whole):
    for path in stopped_everywhere(tmp_path, lambda path: None, lambda path: StoreWriter.create_or_resume(path, SPEC)):
        assert_unfinished(path)
        with pytest.raises((StoreMissingError, StoreUnfinishedError)):
            TokenStore.open(path)
        try:
            assert describe_store(path)["finished"] is False
        except (StoreMissingError, StoreUnfinishedError) as error:
            assert error.hint  # noqa: PT017
        run(path)
        assert contents(path) == whole


@pytest.mark.parametrize("failed", [(), (1,)])
def test_while_clips_are_written_and_the_store_is_finished(tmp_path, whole, without_the_second, failed):
    def prepare(path):
        StoreWriter.create_or_resume(path, SPEC)

    for path in stopped_everywhere(tmp_path, prepare, lambda path: run(path, failed)):
        assert_unfinished(path)
        assert_nothing_wrong_is_read(path)
        run(path, failed)
        assert contents(path) == (without_the_second if failed else whole)


def test_while_a_failed_clip_of_a_finished_store_is_tried_again(tmp_path, whole):
    for path in stopped_everywhere(tmp_path, lambda path: run(path, [1]), run):
        assert_unfinished(path)
        assert_nothing_wrong_is_read(path)
        run(path)
        assert contents(path) == whole


def refresh(path, *, fails):
    with StoreWriter.create_or_resume(path, SPEC) as writer:
        made_of = writer.made_of()
        writer.forget({clip: made_of[clip] for clip in (0, 1) if clip in made_of})
        for clip in writer.pending():
            if clip == 1 and fails:
                writer.fail_clip(clip, "no such video", source(clip))
            else:
                writer.write_clip(clip, clip_tokens(clip, "float16", FEW), source=source(clip))
        writer.finish()


@pytest.mark.parametrize("fails", [False, True])
def test_while_clips_are_made_anew(tmp_path, whole, without_the_second, fails):
    for path in stopped_everywhere(tmp_path, run, lambda path: refresh(path, fails=fails)):
        assert_unfinished(path)
        assert_nothing_wrong_is_read(path)
        refresh(path, fails=fails)
        assert contents(path) == (without_the_second if fails else whole)


def test_while_a_clip_of_a_finished_store_is_written_again(tmp_path, whole):
    for path in stopped_everywhere(tmp_path, run, lambda path: write(path, 1)):
        assert_unfinished(path)
        run(path)
        assert contents(path) == whole


def test_while_it_is_sealed(tmp_path, whole):
    def prepare(path):
        for clip in range(3):
            write(path, clip)

    def seal(path):
        with StoreWriter.create_or_resume(path, SPEC) as writer:
            writer.finish()

    for path in stopped_everywhere(tmp_path, prepare, seal):
        assert_unfinished(path)
        seal(path)
        assert contents(path) == whole


@pytest.mark.parametrize("file", ["audio/s1/c.0.0.0", "commits/00000000.jsonl", "samples.parquet", "zarr.json"])
def test_while_damage_is_healed(tmp_path, whole, file):
    def prepare(path):
        run(path)
        data = bytearray((path / file).read_bytes())
        data[len(data) // 4] ^= 1
        (path / file).write_bytes(data)

    def heal(path):
        if file != "zarr.json":
            repair_store(verify_store(path, deep=True))
        run(path)

    for path in stopped_everywhere(tmp_path, prepare, heal):
        heal(path)
        assert contents(path) == whole
