import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet, Pictures
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.tasks.avqa.grounding import GroundingTask, draw_negatives, load_grounding, negative_inputs
from mettle_cache.tokens import FLOATS, LayerTokens

SEGMENTS = 4
LAYERS = (
    LayerSpec(modality="visual", stage=1, block=1, grid=(3, 3), tokens=9, width=4),
    LayerSpec(modality="visual", stage=2, block=1, grid=(2, 2), tokens=4, width=8),
    LayerSpec(modality="audio", stage=2, block=1, grid=(1, 3), tokens=3, width=6),
)
SAMPLES = pa.table({"clip": list("abcde")})


@pytest.fixture
def task():
    return GroundingTask(LAYERS, samples=SAMPLES, segments=SEGMENTS)


def tokens(count):
    generator = torch.Generator().manual_seed(0)
    return {
        s.name: LayerTokens(torch.randn(count, SEGMENTS, s.tokens, s.width, generator=generator), FLOATS)
        for s in LAYERS
    }


def test_negatives_come_from_the_step_and_nothing_more_is_read(task):
    inputs = task.inputs([0, 3, 4], split_rows=range(5), rng=rng(0))
    assert inputs.rows == ()
    assert (inputs.tensors["negative_clip"] != torch.arange(3)[:, None]).all()
    assert inputs.tensors["negative_clip"].max() < 3


def test_a_step_of_one_video_reads_others(task):
    inputs = task.inputs([2], split_rows=range(5), rng=rng(0))
    assert set(inputs.rows) <= {0, 1, 3, 4}
    assert (inputs.tensors["negative_clip"] > 0).all()


def test_what_is_scored_gets_the_same_negatives_every_time(task):
    first, second = (task.inputs([0, 1, 2], split_rows=range(5), rng=None) for _ in range(2))
    other = task.inputs([1, 0, 2], split_rows=range(5), rng=None)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name])
    assert any(not torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)


def test_over_random_steps_every_other_video_is_equally_likely(task):
    counts, generator = np.zeros((5, 5)), rng(1)
    for _ in range(6000):
        rows = generator.permutation(5)[:3].tolist()
        drawn = task.inputs(rows, split_rows=range(5), rng=generator).tensors["negative_clip"].numpy()
        for place, row in enumerate(rows):
            np.add.at(counts[row], np.array(rows)[drawn[place]], 1)
    share = counts / counts.sum(1, keepdims=True)  # deviates by 0.006
    assert not np.diag(share).any()
    assert abs(share[~np.eye(5, dtype=bool)] - 0.25).max() < 0.03


def test_the_model_sees_mean_sounds_and_raw_pictures(task):
    torch.manual_seed(0)
    model, stored = task.build_model(), tokens(3)
    inputs = task.inputs([0, 1, 2], split_rows=range(5), rng=rng(0)).tensors
    outputs = model(stored, **inputs)
    sound = stored["audio/s2b01"].codes.mean(2)
    pictures = stored["visual/s2b01"].codes
    other = pictures[inputs["negative_clip"], inputs["negative_second"]]
    expected = model.grounding(sound, Pictures.of(pictures), Pictures.of(other)).match
    assert torch.allclose(outputs["match"], expected, atol=1e-6)
    assert outputs["match"].shape == (2 * 3 * SEGMENTS, 2)
    loss = task.loss(model, outputs, task.targets([0, 1, 2]))["match"]
    wanted = torch.tensor([1, 0] * 3 * SEGMENTS)
    assert torch.allclose(loss, functional.cross_entropy(outputs["match"], wanted))


def test_the_score_is_the_share_of_pairs_told_rightly(task):
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(SEGMENTS // 2, 1)
    predictions = task.predict({"match": logits}, [0])
    assert predictions["right"].tolist() == [[True, True, False, False] * (SEGMENTS // 2)]
    assert task.score(predictions, [0]) == {"accuracy": 50.0}


def test_one_modality_is_not_enough():
    with pytest.raises(UsageError, match="grounding needs a visual and an audio layer"):
        GroundingTask(LAYERS[:2], samples=SAMPLES, segments=SEGMENTS)


def test_a_published_file_loads_under_its_prefix(tmp_path):
    source, net = GroundingNet(6, 8), GroundingNet(6, 8)
    tensors = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({**tensors, "module.fc_a1_pure.weight": torch.zeros(2)}, tmp_path / "main_grounding_gen_best.pt")
    load_grounding(net, tmp_path / "main_grounding_gen_best.pt")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in source.state_dict().items())


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
