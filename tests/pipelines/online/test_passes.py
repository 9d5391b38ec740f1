"""Which clips share a pass, and that a clip's codes do not depend on it."""

from dataclasses import dataclass, replace
from itertools import count, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.pipelines.extract.extractor import Extractor, build_extractor, open_config_dataset
from mettle_cache.pipelines.online.passes import AHEAD, compute_clips, form_passes
from tests.pipelines.extraction import tiny, write_clips


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), max_size=8), st.integers(1, 5))
def test_every_clip_of_every_batch_is_in_one_pass_with_a_place_of_its_own(order, places):
    passes = list(form_passes(order, places))
    wanted = [(each.batch, each.clip) for members in passes for each in members]
    assert sorted(wanted) == sorted({(number, clip) for number, clips in enumerate(order) for clip in clips})
    for members in passes:
        assert 1 <= len(members) <= places
        assert len({each.clip % places for each in members}) == len(members)
    # what is computed before its turn is of the next batches alone, so that little has to be held
    for number in range(len(passes)):
        waiting = min(each.batch for members in passes[number:] for each in members)
        assert max(each.batch for each in passes[number]) <= waiting + AHEAD


def test_passes_of_a_shuffled_epoch_are_mostly_full():
    order = torch.randperm(640, generator=torch.Generator().manual_seed(0)).view(40, 16).tolist()
    passes = list(form_passes(order, 4))
    assert len(passes) < 1.25 * 640 / 4


def test_an_endless_order_is_taken_as_it_is_needed():
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield [number]

    assert [each.clip for (each,) in islice(form_passes(endless(), 1), 3)] == [0, 1, 2]
    assert len(taken) <= 3 + AHEAD + 1


@dataclass(frozen=True, eq=False)
class FourAPass(Extractor):
    """As on a GPU: four clips share a pass."""

    @property
    def clips_a_batch(self):
        return 4


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    config = tiny(write_clips(folder / "AVE", train=6, val=1, test=1), folder / "s.zarr", layers="last:1")
    return build_extractor(config, open_config_dataset(config))


def codes_of(extractor, order):
    return {
        (each.wanted.batch, each.wanted.clip): {name: layer.codes for name, layer in each.codes.items()}
        for each in compute_clips(extractor, order)
    }


def test_codes_are_those_of_an_extraction_whatever_the_order(extractor):
    four = FourAPass(**{name: getattr(extractor, name) for name in vars(extractor)})
    clips = [four.prepare(index) for index in range(8)]
    extracted = {index: codes for at in (0, 4) for index, codes in four.encode(clips[at : at + 4]).items()}
    computed = codes_of(four, [[7, 2], [3, 5, 1], [2, 6]])
    assert sorted(computed) == [(0, 2), (0, 7), (1, 1), (1, 3), (1, 5), (2, 2), (2, 6)]
    for (_, clip), layers in computed.items():
        assert all(torch.equal(codes, extracted[clip][name].codes) for name, codes in layers.items())


def test_passes_beside_a_head_leave_its_threads_alone(extractor):
    threads = torch.get_num_threads()
    alone = codes_of(extractor, [[0], [1]])
    try:
        torch.set_num_threads(3)
        for number, each in enumerate(compute_clips(replace(extractor, cores=2), [[0], [1]])):
            assert torch.get_num_threads() == 3
            assert all(torch.equal(layer.codes, alone[number, number][name]) for name, layer in each.codes.items())
    finally:
        torch.set_num_threads(threads)
