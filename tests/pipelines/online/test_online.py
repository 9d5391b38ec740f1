"""Training without a store, beside training from the float16 store that an extraction of the same media makes."""

import shutil
from dataclasses import replace

import pytest

from mettle_cache.errors import DatasetError, MediaError, RunError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.failures import EveryClipFailsError
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.online import tokens
from mettle_cache.pipelines.online.opening import open_online
from mettle_cache.pipelines.share.portable import portable_run
from mettle_cache.pipelines.train.config import TrainJob
from mettle_cache.pipelines.train.job import resume_runs, start_training
from mettle_cache.pipelines.train.run_config import RunConfig
from mettle_cache.pipelines.train.run_folder import RunFolder
from tests.pipelines.extraction import tiny, write_clips
from tests.pipelines.listener import Listener
from tests.pipelines.online.conftest import SMALL


@pytest.fixture(scope="module")
def stored(media, tmp_path_factory):
    """A float16 store of the media and a run from it."""
    folder = tmp_path_factory.mktemp("stored")
    assert extract(tiny(media, folder / "store.zarr", codec="float16")).ok
    job = TrainJob(store=folder / "store.zarr", overrides=SMALL, out=folder / "run", log=())
    start_training(job, Listener())
    return folder


@pytest.fixture(scope="module")
def trained(media, online, tmp_path_factory):
    out = tmp_path_factory.mktemp("online") / "run"
    online(media, out)
    return out


def test_a_run_without_a_store_is_the_run_from_a_float16_store_bit_for_bit(stored, trained, weights):
    assert weights(trained) == weights(stored / "run")
    ours, theirs = (RunFolder(run).read_config() for run in (trained, stored / "run"))
    assert ours.store.key_digest == theirs.store.key_digest
    assert (ours.identity, theirs.store.computed) == (theirs.identity, None)


def test_both_are_evaluated_alike_and_each_from_the_others_tokens(media, stored, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    listener = Listener()
    ours = evaluate(run, progress=listener)
    assert any("computed again" in note for note in listener.notes)
    from_store = evaluate(run, store=stored / "store.zarr", out=tmp_path / "from-store")
    theirs = evaluate(stored / "run", out=tmp_path / "theirs")
    assert ours.scores == from_store.scores == theirs.scores
    assert ours.differs == theirs.differs


def test_a_run_goes_on_from_its_own_record_or_from_a_store_of_its_tokens(stored, trained, weights, tmp_path):
    longer = ("train.epochs=3",)
    runs = {name: shutil.copytree(trained, tmp_path / name) for name in ("computed", "read")}
    for name, store in (("computed", None), ("read", stored / "store.zarr")):
        resume_runs(TrainJob(store=store, out=runs[name], resume=True, overrides=longer, log=()), Listener())
    assert weights(runs["computed"]) == weights(runs["read"])
    assert [RunFolder(run).read_config().store.computed is None for run in runs.values()] == [False, True]


def test_media_that_moved_are_named_and_others_refused(media, trained, tmp_path):
    run, moved = shutil.copytree(trained, tmp_path / "run"), shutil.copytree(media, tmp_path / "moved")
    text = (run / "config.json").read_text()
    config = RunFolder(run).read_config()
    gone = replace(config, store=replace(config.store, computed={**config.store.computed, "root": "/gone"}))
    assert str(media) in text
    (run / "config.json").write_bytes(gone.to_bytes())
    with pytest.raises(RunError, match="not at /gone any more") as refused:
        evaluate(run)
    assert "--root" in refused.value.hint
    assert evaluate(run, root=moved).samples == 2
    other = write_clips(tmp_path / "other", train=2, val=1, test=1)
    with pytest.raises(RunError, match="annotations"):
        evaluate(run, root=other)


def test_a_clip_that_fails_is_left_out_as_an_extraction_leaves_it_out(damage, online, weights, tmp_path):
    root, clip = damage("train")
    with pytest.raises(DatasetError, match=clip) as refused:
        online(root, tmp_path / "refused")
    assert "--skip-missing" in refused.value.hint
    listener = Listener()
    report = online(root, tmp_path / "run", listener=listener, skip_missing=True)
    assert any(clip in note and "cannot be" in note for note in listener.notes)
    extract(tiny(root, tmp_path / "store.zarr", codec="float16", skip_missing=True))
    start_training(TrainJob(store=tmp_path / "store.zarr", overrides=SMALL, out=tmp_path / "s", log=()), Listener())
    assert weights(tmp_path / "run") == weights(tmp_path / "s")
    assert report.dropped == {"train": 1, "val": 0}
    assert list(RunFolder(tmp_path / "run").read_config().store.computed["failed"]) == [clip]


def test_a_clip_that_only_scoring_reads_is_left_out_of_the_score_and_said(damage, online, tmp_path):
    root, clip = damage("test")
    online(root, tmp_path / "run")
    listener = Listener()
    report = evaluate(tmp_path / "run", progress=listener)
    assert (report.samples, report.dropped) == (1, 1)
    assert any("test samples left out" in line for line in report.differs)
    assert any(clip in note for note in listener.notes)


def test_a_run_does_not_go_on_without_clips_that_its_epochs_had(media, trained, tmp_path):
    root, run = shutil.copytree(media, tmp_path / "later"), shutil.copytree(trained, tmp_path / "run")
    for picture in root.rglob("*.jpg"):
        picture.write_bytes(picture.read_bytes()[:-200])
    job = TrainJob(out=run, resume=True, overrides=("train.epochs=3",), log=())
    with pytest.raises((RunError, DatasetError), match="cannot be computed") as refused:
        resume_runs(job, Listener(), root=root)
    assert refused.value.hint
    assert RunFolder(run).read_config().store.computed["failed"] == {}
    assert RunFolder(run).last.read_bytes() == RunFolder(trained).last.read_bytes()


def test_other_commands_compute_the_tokens_too_and_a_shared_run_names_no_place(media, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert export_run(run, repeats=1).out.is_file()
    record = portable_run(run)["config.json"]
    assert str(media.parent).encode() not in record
    assert RunConfig.from_bytes(record).store.computed["root"] == media.name


def test_where_nothing_can_be_computed_that_is_the_error(media, online, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "MOST_BEFORE_A_SUCCESS", 3)

    def broken(extractor, index):
        raise MediaError("the decoder is broken")

    monkeypatch.setattr(Extractor, "prepare", broken)
    with pytest.raises(EveryClipFailsError, match=r"none of the first 3 clips could be computed:\n  - .*the decoder"):
        online(media, tmp_path / "run", skip_missing=True)


def test_a_finished_store_of_these_tokens_is_pointed_at(media, stored):
    listener = Listener()
    open_online(tiny(media, stored / "store.zarr", codec="float16"), listener)
    assert any("holds these very tokens" in note and "--from-cache" in note for note in listener.notes)
