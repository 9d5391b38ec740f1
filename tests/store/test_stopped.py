"""Stopped after every single operation on files, a store is unfinished and not damaged, and a run makes it whole."""

import os

import pytest

from mettle_cache.errors import StoreMissingError, StoreUnfinishedError
from mettle_cache.store import StoreWriter, TokenStore, describe_store, repair_store, verify_store
from tests.store.tiny import LAYERS, clip_tokens, contents, make_spec, source, write_store

SPEC = make_spec("float16", clips=2, layers=[layer for layer in LAYERS if layer.modality == "audio"])
OPERATIONS = ("open", "mkdir", "replace", "unlink")


class Stopped(BaseException):
    """Stands for a kill: from then on nothing is written or removed any more, whoever tries."""


class Stop:
    """Lets so many operations on files happen, and no more; locks are the kernel's and go with a process."""

    def __init__(self, patch, allowed):
        self.left = allowed
        for name in OPERATIONS:
            patch.setattr(os, name, self.counted(getattr(os, name)))
        patch.setattr(os, "fsync", lambda descriptor: None)

    def counted(self, operation):
        def call(target, *arguments, **options):
            changes = operation.__name__ != "open" or arguments[0] & os.O_CREAT
            if changes and ".lock" not in str(target):
                if self.left == 0:
                    raise Stopped
                self.left -= 1
            return operation(target, *arguments, **options)

        return call


def stopped_everywhere(tmp_path, prepare, work):
    """The paths of stores, each prepared and then stopped one operation later in ``work``, until it gets through."""
    for allowed in range(200):
        path = tmp_path / f"{allowed}.zarr"
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
        yield path
    pytest.fail("never got through")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    write_store(path, SPEC)
    return contents(path)


def write(path, clip):
    with StoreWriter.create_or_resume(path, SPEC) as writer:
        writer.write_clip(clip, clip_tokens(clip, "float16", SPEC.layers), source=source(clip))


def assert_unfinished(path):
    try:
        assert verify_store(path, deep=True).state in ("unfinished", "ok")
    except StoreMissingError:
        assert not path.exists() or not list(path.iterdir())
    except StoreUnfinishedError as error:
        assert "same mettle extract command" in error.hint  # noqa: PT017


def test_while_it_is_made(tmp_path, whole):
    for path in stopped_everywhere(tmp_path, lambda path: None, lambda path: StoreWriter.create_or_resume(path, SPEC)):
        assert_unfinished(path)
        with pytest.raises((StoreMissingError, StoreUnfinishedError)):
            TokenStore.open(path)
        try:
            assert describe_store(path)["finished"] is False
        except (StoreMissingError, StoreUnfinishedError) as error:
            assert error.hint  # noqa: PT017
        write_store(path, SPEC)
        assert contents(path) == whole


def test_while_a_clip_is_written(tmp_path, whole):
    def prepare(path):
        StoreWriter.create_or_resume(path, SPEC)

    for path in stopped_everywhere(tmp_path, prepare, lambda path: write(path, 0)):
        assert_unfinished(path)
        write_store(path, SPEC)
        assert contents(path) == whole


def test_while_a_clip_of_a_finished_store_is_written_again(tmp_path, whole):
    for path in stopped_everywhere(tmp_path, lambda path: write_store(path, SPEC), lambda path: write(path, 1)):
        assert_unfinished(path)
        write_store(path, SPEC)
        assert contents(path) == whole


def test_while_it_is_sealed(tmp_path, whole):
    def prepare(path):
        write(path, 0)
        write(path, 1)

    def seal(path):
        with StoreWriter.create_or_resume(path, SPEC) as writer:
            writer.finish()

    for path in stopped_everywhere(tmp_path, prepare, seal):
        assert_unfinished(path)
        seal(path)
        assert contents(path) == whole


@pytest.mark.parametrize("file", ["audio/s1/c.1.0.0.0.0", "samples.parquet", "zarr.json"])
def test_while_damage_is_healed(tmp_path, whole, file):
    def prepare(path):
        write_store(path, SPEC)
        data = bytearray((path / file).read_bytes())
        data[len(data) // 2] ^= 1
        (path / file).write_bytes(data)

    def heal(path):
        if file != "zarr.json":
            repair_store(verify_store(path, deep=True))
        write_store(path, SPEC)

    for path in stopped_everywhere(tmp_path, prepare, heal):
        heal(path)
        assert contents(path) == whole
