"""Paths as users write them: home folders are found, addresses and names that no record can hold are refused."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mettle_cache.backbones.factory import parse_backbone
from mettle_cache.backbones.published import find_checkpoint
from mettle_cache.datasets import open_dataset
from mettle_cache.errors import UsageError
from mettle_cache.paths import local_path
from mettle_cache.pipelines.benchmark.options import BenchOptions
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.train.config import GroundingJob, TrainJob
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.statedict import read_state_dict

ADDRESSES = ("s3://bucket/a.zarr", "gs://bucket/a", "http://host/a", "https://host/a", "hf://a/b", "nas:/volume/a")
NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("text", ["a/b.zarr", "/a/s3:/x", "a:b", "C:/clips", "..", "a/~x", "data set/ä"])
def test_a_path_stays_what_it_is(text):
    assert local_path(text) == local_path(Path(text)) == Path(text)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert local_path("~/a.zarr") == Path("/home/somebody/a.zarr")
    assert local_path(Path("~")) == Path("/home/somebody")
    assert local_path("a/~/b") == Path("a/~/b")


@pytest.mark.parametrize("form", [str, Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_also_as_pathlib_writes_it(address, form):
    with pytest.raises(UsageError, match="is an address, not a path"):
        local_path(form(address))


def test_a_file_address_is_told_as_a_path():
    with pytest.raises(UsageError) as caught:
        local_path("file:///data/my%20clips")
    assert caught.value.hint == "name the path alone: /data/my clips"


@pytest.mark.parametrize(
    ("text", "said"), [("", "is no path"), ("a\0b", "is no path"), ("~nobody-is-called-so/a", "no such user")]
)
def test_what_is_no_path_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        local_path(text)


def test_a_name_that_is_not_utf8_is_refused_by_its_bytes():
    with pytest.raises(UsageError) as caught:
        local_path(f"/data/{NOT_UTF8}/AVE")
    assert r"b'/data/caf\xe9/AVE' is not UTF-8" in caught.value.message
    caught.value.message.encode("ascii")


PLACES = {
    "root of an extraction": lambda path: ExtractConfig(dataset="ave", root=path),
    "store of an extraction": lambda path: ExtractConfig(dataset="ave", out=path),
    "weights": lambda path: ExtractConfig(dataset="ave", visual=f"swinv2_l={path}"),
    "audio weights": lambda path: parse_backbone(f"htsat={path}"),
    "weights file": lambda path: read_state_dict(Path(path)),
    "data set": lambda path: open_dataset("ave", path),
    "store to train on": lambda path: TrainJob(store=path),
    "run": lambda path: TrainJob(out=path),
    "store to pre-train on": lambda path: GroundingJob(store=path),
    "grounding file": lambda path: GroundingJob(out=path),
    "recipe": load_recipe,
    "bench": lambda path: replace(BenchOptions(), folder=path),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_the_python_interface_refuses_an_address(place):
    with pytest.raises(UsageError, match="is an address, not a path"):
        PLACES[place]("s3://bucket/x")


def test_the_weights_folder_of_the_environment_is_a_path_too(tmp_path, monkeypatch):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "HTSAT_AudioSet_Saved_1.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METTLE_WEIGHTS", "~/w")
    assert find_checkpoint() == tmp_path / "w" / "HTSAT_AudioSet_Saved_1.ckpt"
    monkeypatch.setenv("METTLE_WEIGHTS", "s3://bucket/w")
    with pytest.raises(UsageError, match="METTLE_WEIGHTS: s3://bucket/w is an address"):
        find_checkpoint()


def test_configurations_hold_the_home_folder_itself(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = ExtractConfig(dataset="ave", root="~/AVE", out=Path("~/s.zarr"), visual="swinv2_l=~/w.pt")
    assert (config.root, config.out) == (Path("/home/somebody/AVE"), Path("/home/somebody/s.zarr"))
    assert parse_backbone(config.visual).weights == "/home/somebody/w.pt"
    assert TrainJob(store="~/s.zarr", out="~/r").out == Path("/home/somebody/r")
