"""The bound of an extraction, from rates that are given, and the trials that give them."""

import shutil

import pytest
import torch

from mettle_cache.pipelines.extract.bound import Rates, codec_for, describe_bound, describe_writes
from mettle_cache.pipelines.extract.extractor import build_extractor, open_config_dataset
from mettle_cache.pipelines.extract.trials import LEAST_WRITTEN, MOST_WRITTEN, bytes_to_write, measure_decoding
from mettle_cache.store.writing.write_speed import WriteSpeed
from tests.pipelines.extraction import tiny, write_clips

GB = 10**9


def rates(decode, device, disk, *, shares_cores=False):
    return Rates(decode=decode, device=device, disk=disk, shares_cores=shares_cores)


@pytest.mark.parametrize(
    ("decode", "device", "disk", "bound"),
    [(200, 120, 30, "disk"), (40, 120, 300, "decode"), (200, 120, 300, "device"), (None, 120, 30, None)],
)
def test_the_slowest_stage_is_the_bound_where_all_are_known(decode, device, disk, bound):
    assert rates(decode, device, disk).bound == bound


def test_stages_overlap_but_for_those_that_share_cores():
    assert rates(200, 120, 300).expected == 120
    assert rates(200, 120, 30).expected == 30
    assert rates(30, 60, 300, shares_cores=True).expected == pytest.approx(20)
    assert rates(30, 60, 10, shares_cores=True).expected == 10
    assert rates(None, 120, None).expected == 120
    assert rates(30, None, 10).expected is None


@pytest.mark.parametrize(
    ("found", "precision", "words"),
    [
        (
            rates(200, 120, 30),
            "float32",
            "disk: decoding gives 200, the device 120, the disk takes 30.0 clips/s. Fewer",
        ),
        (rates(200, 120, 30), "float32", "--codec klt2 lets the disk take 120 clips/s"),
        (rates(40, 120, 300), "float32", "Every core decodes"),
        (rates(200, 120, 300), "float32", "--precision bfloat16 may be faster"),
        (rates(200, 120, 300), "bfloat16", "Nothing but a faster device"),
        (rates(200, 0.16, 300, shares_cores=True), "float32", "A GPU helps"),
        (rates(None, 0.16, None), "float32", "not every stage was measured (the device 0.16; clips/s)"),
    ],
)
def test_the_bound_comes_with_what_may_be_done(found, precision, words):
    smaller = codec_for(found, 1.8 * GB, {"int8": 60e6, "klt2": 15e6, "klt1.5": 11e6, "klt0": 1e6}, "int8")
    assert words in describe_bound(found, precision=precision, smaller=smaller)


def test_the_codec_that_is_named_keeps_most_of_those_that_suffice():
    codecs = {"float16": 100, "int8": 50, "int4": 25, "klt1.5": 10, "klt0": 1}
    assert codec_for(rates(900, 30, 10), 1000, codecs, "float16").startswith("--codec int4 lets the disk take 40.0")
    assert codec_for(rates(900, 300, 10), 1000, codecs, "float16").startswith("--codec klt1.5 "), (
        "the smallest there is"
    )
    assert codec_for(rates(900, 300, 100), 1000, codecs, "klt1.5") is None


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        (
            {"sustained": 0.5 * GB, "written": 9 * GB, "fell_from": 3 * GB, "fell_after": 6 * GB},
            "sustained 500 MB/s: fell from 3.0 GB/s after 6.0 GB (9.0 GB were written)",
        ),
        ({"sustained": 0.5 * GB, "written": 200 * GB}, "500 MB/s, steady over 200 GB, which is as much as the store"),
        (
            {"sustained": 0.5 * GB, "written": 2 * GB},
            "500 MB/s; too little was written (2.0 GB) to see whether a fast cache is in front of the disk: "
            "--disk-test 20.0GB writes more",
        ),
        ({"sustained": 0.5 * GB, "written": 40 * GB}, "--disk-test 100GB writes more"),
    ],
)
def test_what_a_test_of_the_disk_could_not_see_is_said(speed, words):
    assert words in describe_writes(WriteSpeed(**speed), 100 * GB)


def test_the_default_test_is_bounded_by_the_store_and_by_what_is_free():
    assert bytes_to_write(10, 100 * GB) == LEAST_WRITTEN
    assert bytes_to_write(GB, 100 * GB) == GB
    assert bytes_to_write(500 * GB, 100 * GB) == MOST_WRITTEN
    assert bytes_to_write(500 * GB, 2 * GB) == GB // 2
    assert bytes_to_write(500 * GB, LEAST_WRITTEN) == 0


def test_decoding_counts_clips_that_can_be_read_alone(tmp_path, monkeypatch):
    config = tiny(write_clips(tmp_path / "AVE", train=1), tmp_path / "x.zarr", layers="last:1")
    extractor = build_extractor(config, open_config_dataset(config), device=torch.device("cpu"), cores=2)
    assert measure_decoding(extractor, seconds=0.1) > 0
    shutil.rmtree(tmp_path / "AVE" / "wave", ignore_errors=True)
    for path in tmp_path.glob("AVE/**/*.mp4"):
        path.unlink()
    assert measure_decoding(extractor, seconds=0.1) is None
