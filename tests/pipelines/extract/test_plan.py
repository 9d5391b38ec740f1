"""The bill: sizes, room, the crossover in words, and the speed it is based on.

Sizes agree with the table of docs/codecs.md, "Values of a clip".
"""

import shutil
import threading
from collections import namedtuple

import pytest
import torch

from mettle_cache.backbones import layer_table
from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.synthetic.ave import write_demo_ave
from mettle_cache.errors import UsageError
from mettle_cache.layers import select_layers
from mettle_cache.pipelines.cells import cells_for
from mettle_cache.pipelines.extract import plan
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.limit import clips_beyond
from mettle_cache.pipelines.extract.plan import TIMED_SEGMENTS, make_plan, run_passes, seconds_a_clip, verdict
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.store.format.codecs import CODECS, get_codec
from tests.datasets.avsbench_files import write_s4
from tests.pipelines.extraction import tiny
from tests.store import toy_codecs

SMALL = "test_vit"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "AVE"
    write_demo_ave(folder, train=2, val=1, test=1)
    return folder


def config(root, **changes):
    return ExtractConfig(**{"dataset": "ave", "root": root, **changes})


def test_sizes_of_the_published_backbones_are_those_of_the_paper_and_pencil(root):
    """52,961,280 values a clip (docs/codecs.md, "Values of a clip") times a code's bytes; the rest comes beside."""
    report = make_plan(config(root), measure=False)
    clip_bytes = {(bill.layers, bill.codec): bill.clip_bytes for bill in report.bills}
    values, channels = 52_961_280, 22_464 * 10
    for codec, codes, affine in (
        ("float16", 2 * values, 0),
        ("int8", values, 4 * channels),
        ("int4", values // 2, 4 * channels),
    ):
        overhead = clip_bytes["all", codec] - codes - affine
        assert 0 < overhead < 10_000
    assert clip_bytes["stages", "int8"] / clip_bytes["all", "int8"] == pytest.approx(0.296, abs=0.003)
    assert sum(stage.clip_bytes["int8"] for stage in report.stages) == clip_bytes["all", "int8"]
    assert report.clips == 4
    assert report.chosen.nbytes == 4 * clip_bytes["all", "int8"]


def test_the_static_arrays_of_a_codec_are_counted(root):
    CODECS.register(toy_codecs.SIX)
    try:
        report = make_plan(config(root, visual=SMALL, audio="shared", codec=toy_codecs.SIX.name), measure=False)
    finally:
        CODECS.unregister(toy_codecs.SIX.name)
    # 64 float32 levels a layer and a checksum a stage (one of each modality here)
    layers = sum(stage.layers for stage in report.stages)
    assert report.chosen.static_bytes == layers * 64 * 4 + len(report.stages) * 4
    assert report.chosen.nbytes == 4 * report.chosen.clip_bytes + report.chosen.static_bytes
    assert report.chosen.files == 4 * (len(report.stages) + 1) + len(report.stages)


def test_klt_is_priced_by_its_bits_and_what_goes_with_them(root):
    """Of a value B bits, 4 bytes a token, 2 a frame and channel; rows have whole bytes."""
    report = make_plan(config(root), measure=False)
    clip_bytes = {bill.codec: bill.clip_bytes for bill in report.bills if bill.layers == "all"}
    for codec, bits in (("klt2", 2), ("klt1.5", 1.5), ("klt1.32", 1.32), ("klt1.25", 1.25)):
        expected = 52_961_280 * bits / 8 + 4 * 203_280 + 2 * 224_640
        assert clip_bytes[codec] == pytest.approx(expected, rel=0.005)
    assert clip_bytes["klt1.5"] < 11_500_000
    assert any("could be had" in note for note in report.notes)


def test_cells_are_priced_where_dense_heads_read(tmp_path):
    """A row of four tokens has a basis of four times the side."""
    root, visual = write_s4(tmp_path / "S4"), "tf_efficientnet_lite0"
    report = make_plan(config(root, dataset="avs-s4", visual=visual, audio="shared", codec="klt1.5"), measure=False)
    table = select_layers([*layer_table(visual, "visual"), *layer_table(visual, "audio")], report.chosen.layers)
    layers = cells_for(get_codec("klt1.5"), "avs-s4", table)
    assert {layer.cell for layer in layers} == {1, 2}
    bases = sum(2 * (layer.width * layer.cell**2) ** 2 for layer in layers)
    assert bases < report.chosen.static_bytes < 1.1 * bases


def test_a_chosen_layer_set_joins_the_usual_ones(root):
    report = make_plan(config(root, visual=SMALL, audio="shared", layers="last:2", codec="int4"), measure=False)
    codecs = CODECS.names()
    sets = ("all", "stages", "last:2")
    assert [(bill.layers, bill.codec) for bill in report.bills] == [(one, codec) for one in sets for codec in codecs]
    assert (report.chosen.layers, report.chosen.codec) == ("last:2", "int4")
    assert report.verdict.startswith("not measured")
    assert report.hours is None
    assert report.bound == "unknown, because not every stage was measured (none; clips/s)"


def test_measured_rates_fill_the_bill(root):
    report = make_plan(config(root, visual=SMALL, audio="shared"), measure=True)
    assert report.recomputes_per_second > 0
    rates = report.rates
    assert rates.device == report.recomputes_per_second
    assert rates.disk == pytest.approx(report.writes.sustained / report.chosen.clip_bytes)
    assert 0 < rates.expected < min(rates.device, rates.decode)
    assert report.hours == pytest.approx(report.clips / rates.expected / 3600)
    assert report.bound.split(":")[0] == rates.bound == report.to_json()["rates"]["bound"]
    assert "which is as much as the store" in report.writing
    for bill in report.bills:
        assert bill.reads_per_second == pytest.approx(report.disk_bytes_per_second / bill.clip_bytes)


def test_a_disk_that_is_too_small_and_media_that_are_missing_are_said(root, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("mettle_cache.store.writing.durable.shutil.disk_usage", lambda _: usage(10, 9, 1))
    report = make_plan(config(root, layers="last:1", codec="int4"), measure=False)
    assert not report.ok
    assert report.online == f"mettle train --online --dataset ave --root {root} --layers last:1"
    monkeypatch.undo()
    assert make_plan(config(root), measure=False).online is None
    copy = shutil.copytree(root, tmp_path / "AVE")
    shutil.rmtree(next((copy / "frames").iterdir()))
    report = make_plan(config(copy), measure=False)
    assert report.missing == 1
    assert not report.ok


@pytest.mark.parametrize("clips_per_shard", [None, 1, 2])
def test_a_limit_costs_what_extract_then_writes(root, tmp_path, clips_per_shard):
    limited = tiny(root, tmp_path / "s.zarr", clips_per_shard=clips_per_shard, limit=1)
    whole = make_plan(tiny(root, tmp_path / "s.zarr", clips_per_shard=clips_per_shard), measure=False)
    report = make_plan(limited, measure=False)
    assert (report.clips, report.left_out, report.rows) == (3, 1, 3)
    assert (whole.clips, whole.left_out, whole.rows) == (4, 0, 4)
    assert report.chosen.nbytes == 3 * report.chosen.clip_bytes < whole.chosen.nbytes
    assert any("--limit 1 takes 3 of 4 clips" in note for note in report.notes)
    assert "taken" not in report.to_json()
    assert extract(limited).nbytes == report.chosen.nbytes
    files = [file for file in limited.out.rglob("*") if file.name.startswith("c.") or file.suffix == ".jsonl"]
    assert len(files) == report.chosen.files


def test_hours_and_missing_media_are_of_the_clips_within_the_limit(root, tmp_path, monkeypatch):
    copy = shutil.copytree(root, tmp_path / "AVE")
    small = {"visual": SMALL, "audio": "shared"}
    (beyond,) = clips_beyond(open_dataset("ave", copy), 1)
    shutil.rmtree(copy / "frames" / beyond)
    assert make_plan(config(copy, **small), measure=False).missing == 1
    decoded = []
    monkeypatch.setattr(plan, "measure_decoding", lambda extractor: decoded.extend(extractor.dataset.clips) or 2.0)
    report = make_plan(config(copy, limit=1, **small))
    assert report.missing == 0
    assert beyond not in [clip.id for clip in decoded]
    assert len(decoded) == 3
    assert report.hours == pytest.approx(3 / report.rates.expected / 3600)


def test_where_computing_is_faster_the_command_that_trains_so_is_said(root, monkeypatch):
    monkeypatch.setattr(plan, "seconds_a_clip", lambda *arguments: 1e-9)
    report = make_plan(config(root, visual=SMALL, audio="shared"), measure=True)
    assert "SLOWER" in report.verdict
    assert report.online == f"mettle train --online --dataset ave --root {root} --visual {SMALL} --audio shared"


def test_what_does_not_exist_is_refused(root):
    with pytest.raises(UsageError, match="no codec is called 'int2'"):
        make_plan(config(root, codec="int2"), measure=False)
    with pytest.raises(UsageError, match="no such layer"):
        make_plan(config(root, layers="visual/s9"), measure=False)


@pytest.mark.parametrize(
    ("reads", "recomputes", "words"),
    [(60.0, 30.0, "2.0 times faster"), (10.0, 80.0, "SLOWER than the backbone"), (None, 1.0, "not measured")],
)
def test_the_verdict_hides_nothing(reads, recomputes, words):
    assert words in verdict(reads, recomputes)


CPU = torch.device("cpu")


class Watched:
    """A backbone that remembers its inputs, and how many passes there were at once."""

    segment_shape = (3, 4, 4)

    def __init__(self):
        self.seen, self.now, self.most = [], 0, 0
        self.lock, self.barrier = threading.Lock(), None

    def forward_tokens(self, x):
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        with self.lock:
            self.seen.append(tuple(x.shape))
            self.now += 1
            self.most = max(self.most, self.now)
        if self.barrier is not None:
            self.barrier.wait(10)
        with self.lock:
            self.now -= 1


def test_every_pass_goes_through_every_backbone_as_many_at_once_as_are_asked_for():
    first, second = Watched(), Watched()
    first.barrier = threading.Barrier(2)  # nobody passes alone
    passes = [[torch.zeros(number, 3), torch.zeros(number, 5)] for number in range(1, 5)]
    assert run_passes([first, second], passes, at_once=2, device=CPU) > 0
    assert sorted(first.seen) == [(number, 3) for number in range(1, 5)]
    assert sorted(second.seen) == [(number, 5) for number in range(1, 5)]
    assert first.most == 2


def test_one_at_once_is_one_at_a_time():
    backbone = Watched()
    run_passes([backbone], [[torch.zeros(1, 3)]] * 5, at_once=1, device=CPU)
    assert backbone.most == 1


@pytest.mark.parametrize("cores", [1, 3])
def test_a_clips_seconds_are_the_trials_share(cores, monkeypatch):
    """A trial of 2 segments in each of ``cores`` passes takes 6 s: a clip of 10 segments takes 10 * 6 / (2 * cores)."""
    monkeypatch.setattr(plan, "available_cores", lambda: cores)
    monkeypatch.setattr(plan, "run_passes", lambda backbones, passes, *, at_once, device: 6.0)
    assert seconds_a_clip([Watched(), Watched()], CPU, 10) == pytest.approx(2 * 10 * 6 / (TIMED_SEGMENTS * cores))


def test_the_trial_warms_up_before_it_counts():
    backbone = Watched()
    assert seconds_a_clip([backbone], CPU, 10) > 0
    assert set(backbone.seen) == {(TIMED_SEGMENTS, 3, 4, 4)}
    assert len(backbone.seen) == 2 * plan.available_cores()
