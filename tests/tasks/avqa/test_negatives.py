import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.tasks.avqa.negatives import draw_negatives, negative_inputs


def rng(*seed):
    return np.random.Generator(np.random.PCG64(seed))


@settings(max_examples=150)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=40).filter(lambda videos: len(set(videos)) > 1),
    st.integers(1, 8),
    st.integers(1, 5),
    st.none() | st.integers(2, 40),
    st.integers(0, 1000),
)
def test_a_negative_is_never_of_its_own_video_and_always_where_it_is_said_to_be(videos, batch, segments, bound, seed):
    video_of = np.array(videos)
    rows = rng(seed).integers(0, len(videos), batch).tolist()
    pool = list(range(len(videos)))
    inputs = negative_inputs(video_of, rows, pool, segments=segments, at_most=bound, rng=rng(seed, 1))
    clips, seconds = inputs.tensors["negative_clip"], inputs.tensors["negative_second"]
    assert clips.shape == seconds.shape == (batch, segments)
    assert clips.dtype == seconds.dtype == torch.int64
    assert 0 <= seconds.min() <= seconds.max() < segments
    read = video_of[[*rows, *inputs.rows]]
    assert (read[clips.numpy()] != video_of[rows][:, None]).all()
    # nothing is read twice, and nothing in vain
    assert not set(read[batch:]) & set(read[:batch])
    assert len(set(read[batch:])) == len(read[batch:])
    assert set(range(batch, len(read))) <= set(clips.flatten().tolist())
    assert len(inputs.rows) <= (len(videos) if bound is None else bound)


@pytest.mark.parametrize("bound", [None, 2, 3, 16])
def test_every_other_video_and_second_is_equally_likely(bound):
    own, videos, generator = np.array([3, 0, 3]), np.arange(6), rng(7)
    counts = np.zeros((3, 2, 6, 2))
    for _ in range(6000):
        drawn, seconds = draw_negatives(own, videos, segments=2, at_most=bound, rng=generator)
        for sample in range(3):
            for second in range(2):
                counts[sample, second, drawn[sample, second], seconds[sample, second]] += 1
    share = counts / 6000
    for sample, video in enumerate(own):
        assert not share[sample, :, video].any()
        others = np.delete(share[sample], video, axis=1)
        # five other videos of two seconds each; five standard deviations
        assert abs(others - 1 / 10).max() < 5 * (0.1 * 0.9 / 6000) ** 0.5


def test_without_a_bound_the_seconds_of_a_step_are_independent():
    own, videos, generator = np.array([0, 1]), np.arange(5), rng(3)
    pairs = [draw_negatives(own, videos, segments=2, at_most=None, rng=generator)[0].flatten() for _ in range(8000)]
    drawn = np.array(pairs)
    for one in range(4):
        for other in range(one):
            joint = np.histogram2d(drawn[:, one], drawn[:, other], bins=[np.arange(6) - 0.5] * 2)[0] / len(drawn)
            apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
            assert abs(joint - apart).max() < 0.012


def test_the_same_random_numbers_give_the_same_negatives():
    video_of, rows, pool = np.arange(20), [4, 7], range(20)
    one, same, other = (
        negative_inputs(video_of, rows, pool, segments=10, at_most=4, rng=rng(seed)) for seed in (5, 5, 6)
    )
    assert one.rows == same.rows
    assert torch.equal(one.tensors["negative_clip"], same.tensors["negative_clip"])
    assert not torch.equal(one.tensors["negative_second"], other.tensors["negative_second"])


def test_a_bound_bounds_what_a_step_reads():
    video_of = np.arange(1000)
    rows = list(range(32))
    bounded = negative_inputs(video_of, rows, range(1000), segments=10, at_most=16, rng=rng(0))
    free = negative_inputs(video_of, rows, range(1000), segments=10, at_most=None, rng=rng(0))
    assert len(bounded.rows) <= 16
    # 320 draws of 1000 videos, less those that are the same or in the step already
    assert 240 < len(free.rows) < 300


def test_one_video_has_no_negatives():
    with pytest.raises(UsageError, match="negatives come from other videos, and the split has 1"):
        negative_inputs(np.array([2, 2, 5]), [0], [0, 1], segments=3, at_most=None, rng=rng(0))
