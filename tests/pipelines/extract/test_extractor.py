"""A clip's bytes depend on the clip alone: not on its neighbours in a batch, nor on cores."""

from dataclasses import dataclass

import pytest
import torch

from mettle_cache.datasets import open_dataset
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.extractor import Extractor, build_extractor
from mettle_cache.pipelines.extract.stream import reproducible_passes
from tests.pipelines.extraction import tiny, write_clips


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    root = write_clips(tmp_path_factory.mktemp("extractor") / "AVE")
    return build_extractor(tiny(root, root), open_dataset("ave", root))


@dataclass(frozen=True, eq=False)
class ThreeTogether(Extractor):
    """Batches of several clips, as on a GPU."""

    clips_a_batch = 3


def together(extractor):
    return ThreeTogether(**{name: getattr(extractor, name) for name in extractor.__dataclass_fields__})


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(getattr(first[name], part), getattr(second[name], part))
        for name in first
        for part in ("codes", "scale", "zero")
    )


def test_neighbours_in_a_batch_change_nothing(extractor):
    several = together(extractor)
    clips = [several.prepare(index) for index in (3, 4, 5)]
    all_three = several.encode(clips)
    for clip in clips:
        assert same(several.encode([clip])[clip.index], all_three[clip.index])


def test_groups_follow_from_the_indexes_alone(extractor):
    several = together(extractor)
    assert several.groups([0, 1, 2, 3, 5, 7]) == [[0, 1, 2], [3, 5], [7]]
    assert several.groups([5]) == [[5]]
    assert extractor.groups([4, 7]) == [[4], [7]]


def test_the_number_of_threads_does_not_reach_the_bytes(extractor):
    clip = extractor.prepare(1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with reproducible_passes(extractor.device):
                results.append(extractor.encode([clip])[1])
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_only_the_chosen_layers_come_out_in_their_shapes(extractor):
    codes = extractor.encode([extractor.prepare(0)])[0]
    assert list(codes) == [layer.name for layer in extractor.layers]
    for layer in extractor.layers:
        assert codes[layer.name].codes.shape == (10, layer.tokens, layer.width)
        assert codes[layer.name].codes.device.type == "cpu"


def test_passes_at_once_are_bounded_by_cores_and_by_memory(extractor, monkeypatch):
    assert 1 <= extractor.passes_at_once <= extractor.cores
    many = Extractor(**{**{name: getattr(extractor, name) for name in extractor.__dataclass_fields__}, "cores": 64})
    assert many.passes_at_once > extractor.passes_at_once or extractor.cores >= 64

    class Little:
        available = 1

    monkeypatch.setattr("mettle_cache.pipelines.extract.extractor.psutil.virtual_memory", lambda: Little)
    assert many.passes_at_once == 1


def test_reasons_do_not_tell_the_place_of_the_data(extractor):
    root = extractor.dataset.root
    assert extractor.describe(MediaError(f"{root}/frames/x/1.jpg is broken")) == "frames/x/1.jpg is broken"
