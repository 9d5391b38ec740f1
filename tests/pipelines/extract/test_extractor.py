"""A clip's bytes depend on the clip alone: not on its neighbours in a batch, nor on cores."""

from dataclasses import dataclass

import pytest
import torch

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.extractor import Rig, build_rig
from mettle_cache.pipelines.extract.stream import reproducible_passes
from tests.pipelines.extraction import tiny, write_clips


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    root = write_clips(tmp_path_factory.mktemp("rig") / "AVE")
    return build_rig(tiny(root, root), open_dataset("ave", root))


@dataclass(frozen=True, eq=False)
class ThreeTogether(Rig):
    """Batches of several clips, as on a GPU."""

    clips_a_batch = 3


def together(rig):
    return ThreeTogether(**{name: getattr(rig, name) for name in rig.__dataclass_fields__})


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(getattr(first[name], part), getattr(second[name], part))
        for name in first
        for part in ("codes", "scale", "zero")
    )


def test_neighbours_in_a_batch_change_nothing(rig):
    several = together(rig)
    clips = [several.prepare(index) for index in (3, 4, 5)]
    all_three = several.encode(clips)
    for clip in clips:
        assert same(several.encode([clip])[clip.index], all_three[clip.index])


def test_groups_follow_from_the_indexes_alone(rig):
    several = together(rig)
    assert several.groups([0, 1, 2, 3, 5, 7]) == [[0, 1, 2], [3, 5], [7]]
    assert several.groups([5]) == [[5]]
    assert rig.groups([4, 7]) == [[4], [7]]


def test_the_number_of_threads_does_not_reach_the_bytes(rig):
    clip = rig.prepare(1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with reproducible_passes(rig.device):
                results.append(rig.encode([clip])[1])
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_only_the_chosen_layers_come_out_in_their_shapes(rig):
    codes = rig.encode([rig.prepare(0)])[0]
    assert list(codes) == [layer.name for layer in rig.layers]
    for layer in rig.layers:
        assert codes[layer.name].codes.shape == (10, layer.tokens, layer.width)
        assert codes[layer.name].codes.device.type == "cpu"


def test_lanes_are_bounded_by_cores_and_by_memory(rig, monkeypatch):
    assert 1 <= rig.lanes <= rig.cores
    many = Rig(**{**{name: getattr(rig, name) for name in rig.__dataclass_fields__}, "cores": 64})
    assert many.lanes > rig.lanes or rig.cores >= 64

    class Little:
        available = 1

    monkeypatch.setattr("mettle_cache.pipelines.extract.extractor.psutil.virtual_memory", lambda: Little)
    assert many.lanes == 1


def test_reasons_do_not_tell_the_place_of_the_data(rig):
    root = rig.dataset.root
    assert rig.describe(MediaError(f"{root}/frames/x/1.jpg is broken")) == "frames/x/1.jpg is broken"
