"""Extraction end to end: the bytes are the backbone's own, whoever computes them, and whatever came in between."""

import dataclasses
import os
import shutil
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
import zarr

from mettle_cache.backbones import create_backbone, shared_audio
from mettle_cache.datasets import DATASETS, open_dataset
from mettle_cache.datasets.media import decode
from mettle_cache.datasets.media.allowance import take
from mettle_cache.errors import (
    DatasetError,
    NoRoomError,
    PluginError,
    StoreBusyError,
    StoreKeyError,
    UsageError,
    WeightsError,
)
from mettle_cache.pipelines.extract.failures import EveryClipFailsError
from mettle_cache.pipelines.extract.run import (
    LISTED,
    InterruptedRunError,
    extract,
    find_missing,
)
from mettle_cache.registry import DatasetRow
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.writer import StoreWriter
from tests.pipelines.extraction import tiny, tree, write_clips
from tests.pipelines.listener import Listener


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("extract") / "AVE")


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A store made in one go."""
    out = tmp_path_factory.mktemp("whole") / "store.zarr"
    report = extract(tiny(root, out))
    assert report.ok
    assert report.finished
    return out


@pytest.fixture
def own_root(root, tmp_path):
    """A copy of the data set to damage; its place must not matter to the bytes."""
    return shutil.copytree(root, tmp_path / "elsewhere" / "AVE")


def direct_tokens(root, clip, seed=0):
    """Ground truth: decode, preprocess and forward one clip by hand."""
    dataset = open_dataset("ave", root)
    visual = create_backbone("test_vit@64", weights="random", seed=seed)
    audio = create_backbone("test_efficientnet@64", weights="random", seed=seed, modality="audio")
    media = dataset.clips[clip]
    frames = visual.preprocess(dataset.load_frames(media), 10)
    sound = audio.preprocess(dataset.load_waveform(media, audio.sample_rate), 10)
    return {**visual.forward_tokens(frames), **audio.forward_tokens(sound)}


def stored(store, array, block, clip, shape):
    """What zarr-python reads of one block of a stage, tokens of that shape: codes, and scale and zero of int8."""
    group = zarr.open_group(store, mode="r")
    chunk = np.asarray(group[array][clip, block])
    segments, tokens, width = shape
    values = segments * tokens * width
    if group.attrs["mettle"]["key"]["codec"] == "float16":
        return [chunk.view(np.float16).reshape(shape).astype(np.float64)]
    affine = chunk[values:].view(np.float16).reshape(2, segments, width)
    return [array.astype(np.float64) for array in (chunk[:values].view(np.int8).reshape(shape), *affine)]


@pytest.mark.parametrize("clip", [0, 3, 5])
def test_int8_tokens_are_the_direct_forward_pass_within_half_a_step(root, whole, clip):
    for layer, expected in direct_tokens(root, clip).items():
        array, block = layer.split("b")
        codes, scale, zero = stored(whole, array, int(block) - 1, clip, expected.shape)
        decoded = scale[:, None] * (codes + zero[:, None])
        # half a step of the code, and what float16 scales and zeros round at 255 codes
        bound = scale[:, None] * (0.5 + 256 * 2**-11) + 1e-6
        assert (np.abs(decoded - expected.numpy()) <= bound).all(), layer


def test_float16_tokens_are_the_direct_forward_pass(root, tmp_path):
    extract(tiny(root, tmp_path / "s.zarr", codec="float16", layers="stages"))
    tokens = direct_tokens(root, 2)
    for layer in ("visual/s1b06", "audio/s4b01"):
        (codes,) = stored(tmp_path / "s.zarr", layer.split("b")[0], 0, 2, tokens[layer].shape)
        np.testing.assert_allclose(codes, tokens[layer].numpy(), rtol=2**-10, atol=1e-4)


def test_shared_mode_stores_the_visual_backbones_view_of_the_log_mel(root, tmp_path):
    extract(tiny(root, tmp_path / "s.zarr", audio="shared", layers="last:1", codec="float16"))
    dataset = open_dataset("ave", root)
    audio = shared_audio(create_backbone("test_vit@64", weights="random", seed=0))
    sound = audio.preprocess(dataset.load_waveform(dataset.clips[1], audio.sample_rate), 10)
    expected = audio.forward_tokens(sound)["audio/s1b06"]
    (codes,) = stored(tmp_path / "s.zarr", "audio/s1", 0, 1, expected.shape)
    np.testing.assert_allclose(codes, expected.numpy(), rtol=2**-10, atol=1e-4)


def test_twice_gives_the_same_bytes_wherever_the_data_lies(own_root, whole, tmp_path):
    extract(tiny(own_root, tmp_path / "again.zarr"))
    assert tree(tmp_path / "again.zarr") == tree(whole)


def test_two_parts_in_any_order_make_the_whole(root, whole, tmp_path):
    out = tmp_path / "parts.zarr"
    first = extract(tiny(root, out, part=(1, 2)))
    assert (first.written, first.pending, first.finished) == (3, 3, False)
    last = extract(tiny(root, out, part=(0, 2)))
    assert (last.written, last.pending, last.finished) == (3, 0, True)
    assert tree(out) == tree(whole)


def test_parts_of_shards_of_several_clips_make_the_same_store(root, tmp_path):
    extract(tiny(root, tmp_path / "whole.zarr", clips_per_shard=4))
    out = tmp_path / "parts.zarr"
    first = extract(tiny(root, out, part=(1, 2), clips_per_shard=4))
    assert (first.written, first.pending) == (2, 4)
    assert extract(tiny(root, out, part=(0, 2), clips_per_shard=4)).finished
    assert tree(out) == tree(tmp_path / "whole.zarr")
    assert len(list(out.glob("visual/s1/c.*"))) == 2
    with pytest.raises(StoreKeyError, match="clips_per_shard: 4 -> 1"):
        extract(tiny(root, out))


def test_a_second_run_finds_nothing_to_do(root, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    report = extract(tiny(root, whole))
    assert (report.clips, report.written, report.skipped, report.failed) == (6, 0, 6, 0)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "digest"),
        ({"codec": "int4"}, "codec"),
        ({"layers": "stages"}, "layers"),
        ({"precision": "bfloat16"}, "precision"),
        ({"visual": "test_vit@96=random"}, "layers"),
    ],
)
def test_another_configuration_is_refused_and_changes_nothing(root, whole, change, named):
    before = tree(whole)
    with pytest.raises(StoreKeyError, match=named):
        extract(tiny(root, whole, **change))
    assert tree(whole) == before


def remove_media(root, number):
    clip = open_dataset("ave", root).clips[number]
    for path in {clip.frames, clip.audio}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return clip.id


def test_everything_missing_is_listed_before_any_work(own_root, tmp_path):
    gone = [remove_media(own_root, number) for number in (1, 4)]
    with pytest.raises(DatasetError, match="2 of 6 clips") as caught:
        extract(tiny(own_root, tmp_path / "s.zarr"))
    assert all(clip in caught.value.message for clip in gone)
    assert "--skip-missing" in caught.value.hint
    assert not (tmp_path / "s.zarr").exists()


def whole_samples(store):
    samples = TokenStore.open(store).samples
    return samples["split"].to_pylist(), samples["clip"].to_pylist()


def test_skip_missing_goes_on_records_and_says_what_that_means(own_root, root, whole, tmp_path):
    gone, listener, out = remove_media(own_root, 1), Listener(), tmp_path / "s.zarr"
    report = extract(tiny(own_root, out, skip_missing=True), listener)
    assert (report.written, report.failed, report.finished, report.ok) == (5, 1, True, True)
    assert list(report.failures) == [gone]
    (note,) = [note for note in listener.notes if "not comparable" in note]
    splits = [(split, clip == gone) for split, clip in zip(*whole_samples(whole), strict=True)]
    for split in ("train", "val", "test"):
        every = [lost for name, lost in splits if name == split]
        assert f"{split} {every.count(False)} of {len(every)}" in note
    # the media turn up again: the same command completes the store, byte for byte
    report = extract(tiny(root, out))
    assert (report.written, report.skipped, report.failed) == (1, 5, 0)
    assert tree(out) == tree(whole)


def spoil_picture(root):
    """A picture whose header is whole and whose data are not, so that only decoding finds out."""
    dataset = open_dataset("ave", root)
    clip = next(clip for clip in dataset.clips if clip.frames.is_dir())
    picture = sorted(clip.frames.glob("*.jpg"))[4]
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    return clip.id, picture


def test_one_bad_clip_does_not_stop_the_rest(own_root, tmp_path):
    clip, picture = spoil_picture(own_root)
    assert not open_dataset("ave", own_root).problems(deep=True)
    report = extract(tiny(own_root, tmp_path / "s.zarr"))
    assert (report.written, report.failed, report.finished, report.ok) == (5, 1, True, False)
    assert picture.name in report.failures[clip]
    recorded = (tmp_path / "s.zarr" / "manifest.parquet").read_bytes() + b"".join(
        path.read_bytes() for path in (tmp_path / "s.zarr" / "commits").iterdir()
    )
    assert picture.name.encode() in recorded
    # a store must not tell where its maker kept the data
    assert str(own_root).encode() not in recorded


def raise_for(monkeypatch, clips, error):
    """Let the decoder of recordings raise what a codec library may, for some clips or for all."""
    decoded = decode.load_waveform

    def load(clip, segments, sample_rate):
        if clips is None or clip.id in clips:
            raise error
        return decoded(clip, segments, sample_rate)

    monkeypatch.setattr(decode, "load_waveform", load)


@pytest.mark.parametrize(
    ("error", "skip"), [(ValueError("Unsupported subtype: GSM610"), True), (KeyError("rate"), False)]
)
def test_whatever_a_decoder_raises_is_its_clips_failure(root, whole, tmp_path, monkeypatch, error, skip):
    bad, out = open_dataset("ave", root).clips[2].id, tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        raise_for(patched, {bad}, error)
        report = extract(tiny(root, out, skip_missing=skip))
    assert (report.written, report.failed, report.finished, report.ok) == (5, 1, True, skip)
    assert report.failures[bad].startswith(open_dataset("ave", root).clips[2].audio.relative_to(root).as_posix())
    assert type(error).__name__ in report.failures[bad]
    assert TokenStore.open(out).failed == {bad: report.failures[bad]}
    # with a library that reads it, the same command completes the store
    assert extract(tiny(root, out)).written == 1
    assert tree(out) == tree(whole)


def test_a_defect_that_all_clips_meet_leaves_an_unfinished_store(root, whole, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        raise_for(patched, None, OSError("sndfile library not found"))
        with pytest.raises(EveryClipFailsError, match="none of the 6 clips could be extracted"):
            extract(tiny(root, out, skip_missing=True))
    assert not (out / "READY").exists()
    with StoreWriter.join(out) as writer:
        assert [writer.status(index) for index in range(6)] == [None] * 6
    assert extract(tiny(root, out)).written == 6
    assert tree(out) == tree(whole)


def test_a_clip_that_takes_too_much_memory_fails_and_is_tried_again_with_more(root, whole, tmp_path, monkeypatch):
    heavy, decoded, out = open_dataset("ave", root).clips[1], decode.load_frames, tmp_path / "s.zarr"

    def load(clip, segments, rate=None):
        take(clip.frames, 50_000_000 if clip.id == heavy.id else 1_000_000)
        return decoded(clip, segments, rate)

    monkeypatch.setattr(decode, "load_frames", load)
    report = extract(tiny(root, out, memory=150_000_000))
    assert (report.written, list(report.failures), report.ok) == (5, [heavy.id], False)
    assert "more than the" in report.failures[heavy.id]
    report = extract(tiny(root, out, memory=250_000_000))
    assert (report.written, report.skipped, report.ok) == (1, 5, True)
    assert tree(out) == tree(whole)


def test_names_and_weights_are_looked_at_before_the_media(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(open_dataset("ave", root)), "problems", lambda self, deep: pytest.fail("media were looked at")
    )
    for wrong in ({"layers": "visual/s9"}, {"visual": "test_vit=no.pth"}, {"codec": "int9"}, {"device": "tpu"}):
        with pytest.raises((UsageError, WeightsError)):
            extract(tiny(root, tmp_path / "s.zarr", **wrong))


def test_media_may_go_once_their_clips_are_stored(own_root, tmp_path):
    extract(tiny(own_root, tmp_path / "s.zarr", part=(0, 2)))
    for number in (0, 1, 2):
        remove_media(own_root, number)
    report = extract(tiny(own_root, tmp_path / "s.zarr"))
    assert (report.written, report.skipped, report.ok) == (3, 3, True)


class Pest(Listener):
    """A user who presses Ctrl-C when the first clip is done."""

    def advance(self, n=1, *, nbytes=0):
        super().advance(n, nbytes=nbytes)
        if self.done == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_soon_keeps_what_is_done_and_resumes_to_the_same_bytes(root, whole, tmp_path, number):
    pest, out = Pest(), tmp_path / "s.zarr"
    pest.number = number
    with pytest.raises(InterruptedRunError, match="clips to go") as caught:
        extract(tiny(root, out), pest)
    assert caught.value.exit_code == 130
    assert "same command again" in caught.value.hint
    with StoreWriter.join(out) as writer:
        left = writer.pending()
    assert pest.done + len(left) == 6
    assert left
    assert extract(tiny(root, out)).skipped == pest.done
    assert tree(out) == tree(whole)


def test_no_room_is_refused_before_any_work(root, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "mettle_cache.store.writing.durable.shutil.disk_usage", lambda path: usage(10**6, 9 * 10**5, 10**5)
    )
    with pytest.raises(NoRoomError, match=r"still needs .* 100 kB are free") as caught:
        extract(tiny(root, tmp_path / "s.zarr"))
    assert "mettle plan" in caught.value.hint
    assert not list((tmp_path / "s.zarr" / "commits").iterdir())


def test_random_weights_are_said_aloud_and_recorded(root, tmp_path):
    listener = Listener()
    report = extract(tiny(root, tmp_path / "s.zarr", layers="visual", seed=7), listener)
    assert any("test_vit" in note and "RANDOM" in note and "seed 7" in note for note in listener.notes)
    assert report.notes
    attributes = dict(zarr.open_group(tmp_path / "s.zarr", mode="r").attrs)["mettle"]
    backbones = attributes["key"]["extraction"]["backbones"]
    assert backbones["visual"]["weights"]["kind"] == "random"
    # no layer of it was chosen, so it did not run
    assert set(backbones) == {"visual"}
    assert attributes["provenance"]["command"].endswith("--layers visual --seed 7")


def test_what_the_media_show_is_told_once(own_root, tmp_path):
    clip = next(clip for clip in open_dataset("ave", own_root).clips if clip.frames.is_dir())
    (clip.frames / "00000010.jpg").unlink()
    listener = Listener()
    extract(tiny(own_root, tmp_path / "s.zarr", part=(0, 6)), listener)
    assert len([note for note in listener.notes if f"(9 in 1), such as {clip.id}" in note]) == 1


def test_weights_files_are_named_without_their_folder(tmp_path, root):
    from safetensors.torch import save_file

    network = create_backbone("test_vit@64", weights="random").trunk.network
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    config = tiny(root, tmp_path / "s.zarr", visual=f"test_vit@64={tmp_path / 'w.safetensors'}", layers="last:1")
    extract(config)
    assert str(tmp_path).encode() not in b"".join(tree(tmp_path / "s.zarr").values())
    command = dict(zarr.open_group(tmp_path / "s.zarr", mode="r").attrs)["mettle"]["provenance"]["command"]
    assert "--visual test_vit@64=w.safetensors" in command


def test_two_extractions_of_one_part_do_not_mix(root, tmp_path):
    out = tmp_path / "s.zarr"
    extract(tiny(root, out, part=(0, 3)))
    with StoreWriter.join(out) as other:
        other.pending()
        with pytest.raises(StoreBusyError, match="being written"):
            extract(tiny(root, out))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"visual": "htsat=random"}, UsageError, "reads sound"),
        ({"visual": "test_vitt"}, UsageError, "unknown backbone"),
        ({"visual": "test_vit=/no/such/file.safetensors"}, WeightsError, "/no/such/file.safetensors"),
        ({"codec": "int9"}, UsageError, "no codec is called 'int9'"),
        ({"layers": "visual/s9"}, UsageError, "no such layer"),
        ({"device": "tpu-of-mine"}, UsageError, "no device"),
        ({"dataset": "avi"}, UsageError, "no data set is called"),
    ],
)
def test_wrong_requests_leave_nothing_behind(root, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        extract(tiny(root, tmp_path / "s.zarr", **change))
    assert not (tmp_path / "s.zarr").exists()


def test_a_report_is_json_and_measures_itself(root, tmp_path):
    started = time.perf_counter()
    report = extract(tiny(root, tmp_path / "s.zarr"))
    document = report.to_json()
    assert set(document) == {field.name for field in dataclasses.fields(report)} | {"finished", "ok"}
    assert 0 < report.seconds < time.perf_counter() - started
    assert report.frames_per_second == pytest.approx(60 / report.seconds)
    assert report.peak_memory > 10_000_000
    metadata = load_metadata(tmp_path / "s.zarr")
    indexes = sum(array.shards * array.index_bytes for array in metadata.layout)
    data = sum(len(data) for name, data in tree(tmp_path / "s.zarr").items() if "/c." in name)
    assert report.nbytes == data - indexes
    assert torch.get_num_threads() >= 1


@pytest.fixture
def many_clips(tmp_path):
    return write_clips(tmp_path / "AVE", train=LISTED + 4)


def test_a_long_list_ends_with_a_count(many_clips, tmp_path):
    root = many_clips
    for folder in ("frames", "wave", "AVE"):
        shutil.rmtree(root / folder)
    dataset, config = open_dataset("ave", root), tiny(root, tmp_path / "s.zarr")
    with pytest.raises(DatasetError) as caught:
        find_missing(dataset, config, config.out, 1)
    lines = caught.value.message.splitlines()
    assert lines[0].startswith(f"{LISTED + 6} of {LISTED + 6} clips")
    assert lines[-1].endswith("more")
    assert len(lines) == LISTED + 2
    skipping = tiny(root, tmp_path / "s.zarr", skip_missing=True)
    reasons = find_missing(dataset, skipping, skipping.out, 1)
    assert list(reasons) == [clip.id for clip in dataset.clips]
    assert not any(str(tmp_path) in reason for reason in reasons.values())


def test_only_the_parts_own_clips_matter(many_clips, tmp_path):
    root = many_clips
    dataset = open_dataset("ave", root)
    first = dataset.clips[0]
    for path in {first.frames, first.audio}:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dataset, mine = open_dataset("ave", root), tiny(root, tmp_path / "s.zarr", part=(0, 2))
    with pytest.raises(DatasetError, match="1 of 13 clips"):
        find_missing(dataset, mine, mine.out, 1)
    other = tiny(root, tmp_path / "s.zarr", part=(1, 2))
    assert find_missing(dataset, other, other.out, 1) == {}
    # a part is of whole shards
    with pytest.raises(DatasetError, match="1 of 16 clips"):
        find_missing(dataset, mine, mine.out, 16)


def test_a_data_set_without_a_task_is_said_before_anything_is_looked_at(tmp_path):
    row = DATASETS.register(DatasetRow("taskless", "mettle_cache.datasets.ave:INFO"))
    listener = Listener()
    try:
        with pytest.raises(PluginError, match="calls itself 'ave'"):
            extract(tiny(tmp_path, tmp_path / "s.zarr", dataset="taskless"), listener)
    finally:
        DATASETS.unregister(row.name)
    assert listener.notes == ["note: no task learns from taskless; train needs --recipe with a task"]


def test_the_patch_embedding_is_stored_where_it_is_named(root, tmp_path):
    chosen = {"layers": "visual/embed,visual/last:1", "codec": "float16", "visual": "test_vit@32=random"}
    config = tiny(root, tmp_path / "store.zarr", **chosen)
    assert extract(config).ok
    store = TokenStore.open(config.out)
    assert [layer.name for layer in store.layers] == ["visual/s1b00", "visual/s1b06"]
    backbone = create_backbone("test_vit@32", weights="random", embedding=True)
    dataset = open_dataset("ave", root)
    frames = backbone.preprocess(dataset.load_frames(dataset.clips[0]), 10)
    direct = backbone.forward_tokens(frames)["visual/s1b00"]
    assert torch.equal(store[0]["visual/s1b00"].floats(), direct.half().float())
    assert store.key["extraction"]["backbones"]["visual"]["layers"][0]["block"] == 0
