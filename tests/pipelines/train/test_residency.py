"""Where tokens stay: the same numbers from every tier, and a clear word where they do not fit."""

import json

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train import residency
from mettle_cache.pipelines.train.passes import PassPlan, train_passes
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.residency import Residency, foretell_residence, room_in, tiers_to_try
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train
from tests.pipelines.listener import Listener
from tests.pipelines.train.test_training import FAST, curve

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GB = 10**9
# train000 and train001 are one clip
CLIPS = 16 + 6 - 1


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(16, 6, 6)


@pytest.fixture
def free(monkeypatch):
    """Sets the memory that is free by the type of the device."""
    rooms = {"cpu": 50 * GB, "cuda": 10 * GB}
    monkeypatch.setattr(residency, "available_memory", lambda device: rooms[device.type])
    return rooms


@pytest.mark.parametrize("switches", [[], ["method=pooled"]], ids=["whole layers", "pooled grids"])
def test_every_tier_gives_the_same_bits(store, tmp_path, pooled_method, switches):
    reports = {}
    for tier in ("disk", "memory", "device"):
        recipe = load_recipe("ave-small", [*FAST, *switches])
        reports[tier] = train(store, recipe=recipe, out=tmp_path / tier, residency=Residency(tier))
        assert curve(reports[tier]) == curve(reports["disk"])
        assert (tmp_path / tier / "best.safetensors").read_bytes() == (
            tmp_path / "disk" / "best.safetensors"
        ).read_bytes()
        assert reports[tier].residence["tier"] == tier
        assert json.loads((tmp_path / tier / "result.json").read_text())["training"] == reports[tier].to_json()
    assert "the disk is read once, and not in each of 3 epochs" in reports["memory"].tokens
    assert "are read from the disk in each of 3 epochs" in reports["disk"].tokens
    assert reports["memory"].foretold_memory_bytes > reports["disk"].foretold_memory_bytes


def test_passes_share_what_stays(store, tmp_path):
    recipe = load_recipe("ave-small", FAST)
    one, other = (RunSpec(recipe=recipe, seed=seed, folder=tmp_path, name=f"seed-{seed}") for seed in range(2))
    report = train_passes(store, PassPlan(((one,), (other,)), (0, 0), 0), residency=Residency("memory"))
    assert report.passes == 2
    assert report.bytes_read == store.resident_bytes(CLIPS)


def test_what_does_not_fit_is_read_from_the_disk_and_the_reason_is_said(store, tmp_path):
    heard, recipe = Listener(), load_recipe("ave-small", FAST)
    report = train(store, recipe=recipe, out=tmp_path / "run", residency=Residency(memory=1000), progress=heard)
    assert report.residence["tier"] == "disk"
    (said,) = [note for note in heard.notes if "from the disk" in note]
    assert said == report.tokens
    assert "192 kB of tokens do not fit in host memory: they may take 0 B (of --memory 1.0 kB, less" in said


@pytest.mark.parametrize("tier", ["memory", "device"])
def test_a_tier_that_was_asked_for_and_has_no_room_is_an_error(store, tmp_path, tier):
    recipe = load_recipe("ave-small", FAST)
    needed = train(store, recipe=recipe, out=tmp_path / "fits", residency=Residency(tier)).foretold_memory_bytes
    with pytest.raises(UsageError, match=f"--resident {tier}: 192 kB of tokens do not fit") as caught:
        train(store, recipe=recipe, out=tmp_path / "run", residency=Residency(tier, needed - 100_000))
    assert caught.value.hint.startswith("47 % of them would fit: choose fewer layers with --set layers=")
    assert "--resident disk" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_memory_that_is_refused_after_all_falls_to_the_next_tier(store, tmp_path, monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(type(store), "keep", refuse)
    report = train(store, recipe=load_recipe("ave-small", FAST), out=tmp_path / "run")
    assert report.residence["tier"] == "disk"
    assert "there were no 192 kB in host memory after all" in report.tokens


def test_the_nearest_memory_comes_first_and_training_takes_its_own(free):
    assert tiers_to_try("auto", CUDA) == ("device", "memory")
    assert tiers_to_try("auto", CPU) == ("memory",)
    assert tiers_to_try("disk", CUDA) == ()
    assert tiers_to_try("device", CPU) == ("device",)
    # training is on the GPU, and --memory is the host's
    assert room_in("device", CUDA, limit=GB, training=2 * GB).nbytes == 6 * GB
    assert room_in("memory", CUDA, limit=GB, training=2 * GB).nbytes == GB
    assert room_in("memory", CPU, limit=None, training=2 * GB).nbytes == 38 * GB
    assert room_in("device", CPU, limit=5 * GB, training=2 * GB).nbytes == 3 * GB
    free["cpu"] = 2 * GB
    assert room_in("memory", CPU, limit=5 * GB, training=2 * GB).nbytes == 0


def test_a_plan_says_where_tokens_would_stay(free):
    tier, words = foretell_residence(4 * GB, CUDA, training=GB, disk_speed=2e9)
    assert (tier, words) == (
        "device",
        "4.0 GB stay on the device, which has room for 7.0 GB (of 10.0 GB that are free, less 1.0 GB for training): "
        "the first epoch alone reads the disk, which takes 2.0 s",
    )
    assert foretell_residence(20 * GB, CUDA, training=GB, disk_speed=None)[0] == "memory"
    tier, words = foretell_residence(200 * GB, CUDA, training=GB, disk_speed=2e9)
    assert tier == "disk"
    assert words.startswith("200 GB are read in every epoch, which takes 1 min 40 s: on the device they may take")
