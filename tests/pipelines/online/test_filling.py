"""A store that is filled while a head trains, beside one that an extraction makes of the same media."""

import shutil

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.online.filling import LEAST_ADDED, Step, plan_steps
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.job import resume_runs, start_training
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store import TokenStore
from tests.pipelines.extraction import tiny, tree
from tests.pipelines.listener import Listener
from tests.pipelines.online.conftest import SMALL

STORED = {"layers": "last:2", "clips_per_shard": 2}


@pytest.fixture(scope="module")
def extracted(media, tmp_path_factory):
    """``extracted(codec)``: a store of the media in one go, and the run from it."""
    made = {}

    def make(codec):
        if codec not in made:
            folder = made[codec] = tmp_path_factory.mktemp("extracted")
            assert extract(tiny(media, folder / "store.zarr", codec=codec, **STORED)).ok
            job = TrainJob(store=folder / "store.zarr", overrides=SMALL, out=folder / "run", log=())
            start_training(job, Listener())
        return made[codec]

    return make


def complete(media, store, codec):
    """What ``mettle extract`` with the same options adds; the bytes of the whole store."""
    report = extract(tiny(media, store, codec=codec, **STORED))
    assert report.finished
    return report.written, tree(store)


@pytest.mark.parametrize("codec", ["int8", "klt1.5"])
def test_heads_see_the_codecs_tokens_and_the_second_epoch_reads_them(
    media, extracted, online, weights, tmp_path, codec
):
    store, listener = tmp_path / "store.zarr", Listener()
    online(media, tmp_path / "run", fill=str(store), codec=codec, **STORED, listener=listener)
    assert weights(tmp_path / "run") == weights(extracted(codec) / "run")
    assert any(note.startswith("7 clips went through the backbones") for note in listener.notes)
    (left,) = [note for note in listener.notes if "lacks 2" in note]
    assert f"mettle extract --dataset ave --root {media}" in left
    assert f"--out {store}" in left
    assert TokenStore.open(store, allow_unfinished=True).statuses.count("ok") == 7
    assert complete(media, store, codec) == (2, tree(extracted(codec) / "store.zarr"))


class Stopping(Listener):
    """Ctrl-C after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def advance(self, n=1, *, nbytes=0):
        super().advance(n, nbytes=nbytes)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


# in the first epoch and in the second
@pytest.mark.parametrize("batches", [1, 4])
def test_stopped_anywhere_both_the_run_and_the_store_go_on(media, extracted, online, weights, tmp_path, batches):
    store, run = tmp_path / "store.zarr", tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        online(media, run, fill=str(store), codec="int8", **STORED, listener=Stopping(batches))
    copy = shutil.copytree(store, tmp_path / "copy.zarr")
    assert complete(media, copy, "int8")[1] == tree(extracted("int8") / "store.zarr")
    listener = Listener()
    resume_runs(TrainJob(out=run, resume=True, log=()), listener)
    assert weights(run) == weights(extracted("int8") / "run")
    assert complete(media, store, "int8") == (2, tree(extracted("int8") / "store.zarr"))


def test_a_run_goes_on_from_the_store_once_an_extraction_has_finished_it(media, online, weights, tmp_path):
    store, run = tmp_path / "store.zarr", tmp_path / "run"
    online(media, run, fill=str(store), codec="int8", **STORED)
    complete(media, store, "int8")
    listener = Listener()
    resume_runs(TrainJob(out=run, resume=True, overrides=("train.epochs=3",), log=()), listener)
    assert any("holds its tokens by now" in note for note in listener.notes)
    assert RunFolder(run).read_config().store.computed is None
    with pytest.raises(UsageError, match="finished: there is nothing to fill") as refused:
        online(media, tmp_path / "other", fill=str(store), codec="int8", **STORED)
    assert "--from-cache" in refused.value.hint


def test_a_clip_that_fails_fails_in_the_store_too(damage, online, tmp_path):
    root, clip = damage("train")
    store = tmp_path / "store.zarr"
    online(root, tmp_path / "run", fill=str(store), codec="int8", skip_missing=True, **STORED)
    assert list(TokenStore.open(store, allow_unfinished=True).failed) == [clip]
    options = {"codec": "int8", "skip_missing": True, **STORED}
    assert extract(tiny(root, store, **options)).finished
    assert extract(tiny(root, tmp_path / "whole.zarr", **options)).finished
    assert tree(store) == tree(tmp_path / "whole.zarr")


def test_what_was_written_in_an_epoch_is_read_when_opening_the_store_anew_pays():
    order = [[0, 1], [1, 2], [0, 3]]
    assert plan_steps(order, {3}) == [Step((0, 1), ()), Step((1, 2), ()), Step((0,), (3,))]
    many = [list(range(LEAST_ADDED)), [5, LEAST_ADDED], [5, LEAST_ADDED]]
    assert plan_steps(many, set()) == [
        Step(tuple(range(LEAST_ADDED)), ()),
        Step((LEAST_ADDED,), (5,), reopen=True),
        Step((LEAST_ADDED,), (5,)),
    ]
