import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from mettle_cache.decoders.avqa_grounding import GroundingNet
from mettle_cache.decoders.avqa_pictures import Pictures
from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.tasks.avqa.grounding import GroundingTask, load_grounding
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


def rng(seed):
    return np.random.Generator(np.random.PCG64(seed))


def tokens(count):
    generator = torch.Generator().manual_seed(0)
    return {
        s.name: LayerTokens(torch.randn(count, SEGMENTS, s.tokens, s.width, generator=generator), FLOATS)
        for s in LAYERS
    }


def test_negatives_come_from_the_step_and_nothing_more_is_read(task):
    inputs = task.inputs([0, 3, 4], pool=range(5), rng=rng(0))
    assert inputs.rows == ()
    assert (inputs.tensors["negative_clip"] != torch.arange(3)[:, None]).all()
    assert inputs.tensors["negative_clip"].max() < 3


def test_a_step_of_one_video_reads_others(task):
    inputs = task.inputs([2], pool=range(5), rng=rng(0))
    assert set(inputs.rows) <= {0, 1, 3, 4}
    assert (inputs.tensors["negative_clip"] > 0).all()


def test_what_is_scored_gets_the_same_negatives_every_time(task):
    first, second = (task.inputs([0, 1, 2], pool=range(5), rng=None) for _ in range(2))
    other = task.inputs([1, 0, 2], pool=range(5), rng=None)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name])
    assert any(not torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)


def test_over_random_steps_every_other_video_is_equally_likely(task):
    counts, generator = np.zeros((5, 5)), rng(1)
    for _ in range(6000):
        rows = generator.permutation(5)[:3].tolist()
        drawn = task.inputs(rows, pool=range(5), rng=generator).tensors["negative_clip"].numpy()
        for place, row in enumerate(rows):
            np.add.at(counts[row], np.array(rows)[drawn[place]], 1)
    share = counts / counts.sum(1, keepdims=True)  # deviates by 0.006
    assert not np.diag(share).any()
    assert abs(share[~np.eye(5, dtype=bool)] - 0.25).max() < 0.03


def test_the_model_sees_mean_sounds_and_raw_pictures(task):
    torch.manual_seed(0)
    model, stored = task.build_model(), tokens(3)
    inputs = task.inputs([0, 1, 2], pool=range(5), rng=rng(0)).tensors
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
