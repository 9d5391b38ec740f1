import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train import sample_loader
from mettle_cache.pipelines.train.sample_loader import (
    SampleLoader,
    common_inputs,
    epoch_order,
    evaluation_inputs,
    read_split,
    training_inputs,
)
from mettle_cache.store import StoreSpec, StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers
from mettle_cache.tasks.protocol import StepInputs
from tests.pipelines.tiny_store import LAYERS


@given(st.integers(0, 300), st.integers(0, 2**32), st.integers(0, 1000))
def test_order_is_a_permutation_that_seed_and_epoch_decide(count, seed, epoch):
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(count, seed=seed, epoch=epoch)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(100, seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_splits_are_rows_and_leave_out_clips_without_tokens(tiny_store):
    store = tiny_store(4, 2, 3, failed={"train002": "cannot be decoded"})
    train, test = read_split(store, "train"), read_split(store, "test")
    # rows 0 and 1 share a clip and are two samples all the same
    assert (train.rows, train.dropped, len(train)) == ((0, 1, 3), (2,), 3)
    assert (test.rows, test.dropped) == ((6, 7, 8), ())
    assert len(read_split(store, "none")) == 0


def test_batches_hold_each_sample_s_own_clip_and_only_the_layers_asked_for(tiny_store):
    store = tiny_store(5, 1, 1)
    loader = SampleLoader(store, LAYERS[:2], device=torch.device("cpu"))
    clips = store.samples["clip"].to_pylist()
    groups = []
    # one by one: a batch's memory is reused
    for together in loader.batches([3, 0, 1, 4, 2], 2):
        rows, batch = together.rows, together.tokens
        groups.append(rows)
        assert set(batch.layers) == {layer.name for layer in LAYERS[:2]}
        assert [store.clips[clip] for clip in batch.clips] == [clips[row] for row in rows]
        for position, row in enumerate(rows):
            stored = store.read([store.clips.index(clips[row])]).layers
            for name, layer in batch.layers.items():
                assert torch.equal(layer.codes[position], stored[name].codes[0])
    assert groups == [[3, 0], [1, 4], [2]]
    # what was delivered, the clip that two samples share twice
    names = [layer.name for layer in LAYERS[:2]]
    assert loader.nbytes == 5 * store.read([0], names).nbytes


def frame_store(path, frames):
    """A video a sample, every frame of which is a clip of one segment; ``frames`` says how many each video has."""
    layers = LAYERS[:2]
    ids = [[f"v{video}_{frame}" for frame in range(count)] for video, count in enumerate(frames)]
    samples = pa.table(
        {
            "row": range(len(ids)),
            "clip": [f"v{video}" for video in range(len(ids))],
            "split": ["train"] * len(ids),
            "clips": ids,
        }
    )
    spec = StoreSpec(
        dataset="frames",
        segments=1,
        layers=layers,
        codec="int8",
        clips=tuple(clip for clips in ids for clip in clips),
        samples=samples,
    )
    with StoreWriter.create_or_resume(path, spec) as writer:
        for index in range(len(spec.clips)):
            generator = torch.Generator().manual_seed(index)
            tokens = {layer.name: torch.randn(1, layer.tokens, layer.width, generator=generator) for layer in layers}
            writer.write_clip(index, encode_layers(tokens, get_codec("int8")), source=f"{index:032x}")
        writer.finish()
    return TokenStore.open(path)


def test_frames_that_are_clips_of_their_own_come_together_as_segments(tmp_path):
    store = frame_store(tmp_path / "frames.zarr", [3, 3, 3])
    for batch in SampleLoader(store, store.layers, device=torch.device("cpu")).batches([2, 0], 2):
        stored = store.read([6, 7, 8, 0, 1, 2]).layers
        for name, layer in batch.tokens.layers.items():
            assert layer.codes.shape[:2] == (2, 3)
            assert torch.equal(layer.floats().flatten(0, 1), stored[name].floats()[:, 0])


def test_samples_of_different_numbers_of_frames_cannot_share_a_batch(tmp_path):
    store = frame_store(tmp_path / "frames.zarr", [3, 2])
    with pytest.raises(UsageError, match="2 samples of one batch have 5 clips together: not the same number each"):
        list(SampleLoader(store, store.layers, device=torch.device("cpu")).batches([0, 1], 2))


def test_a_task_is_asked_before_its_batch_is_read_and_further_samples_follow_it(tiny_store):
    store = tiny_store(6, 1, 1)
    asked = []

    def inputs(number, rows):
        asked.append((number, list(rows)))
        return StepInputs(rows=(5, rows[0]), tensors={"number": torch.tensor(number)})

    clips = store.samples["clip"].to_pylist()
    for batch in SampleLoader(store, LAYERS[:1], device=torch.device("cpu")).batches([4, 2, 3], 2, inputs):
        expected = [clips[row] for row in (*batch.rows, 5, batch.rows[0])]
        assert [store.clips[clip] for clip in batch.tokens.clips] == expected
        assert len(batch.tokens.layers[LAYERS[0].name].codes) == len(expected)
    assert asked == [(0, [4, 2]), (1, [3])]


def test_what_a_task_draws_follows_from_order_epoch_and_batch():
    class Drawing:
        def inputs(self, rows, *, split_rows, rng):
            return StepInputs(rows=tuple(rng.choice(split_rows, 3).tolist()) if rng else ())

    def draw(order_seed, epoch, number):
        return training_inputs(Drawing(), range(100), order_seed=order_seed, epoch=epoch)(number, [1]).rows

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(*numbers) for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4
    assert evaluation_inputs(Drawing(), range(100))(0, [1]).rows == ()


def test_heads_of_one_pass_must_be_given_the_same():
    same, other = StepInputs((1,), {"x": torch.ones(2)}), StepInputs((1,), {"x": torch.zeros(2)})
    assert common_inputs([lambda *_: same, lambda *_: StepInputs((1,), {"x": torch.ones(2)})])(0, [3]) is same
    for different in (other, StepInputs((2,), same.tensors), StepInputs((1,), {"y": torch.ones(2)})):
        with pytest.raises(UsageError, match="cannot share a pass: their head options"):
            common_inputs([lambda *_: same, lambda *_, found=different: found])(0, [3])
        with pytest.raises(UsageError, match="cannot share a pass"):
            common_inputs([lambda *_: same, lambda *_: same, lambda *_, found=different: found])(0, [3])


def test_kernels_are_compiled_for_the_layers_that_are_read_before_anything_counts(tiny_store, monkeypatch):
    pooled = []
    monkeypatch.setattr(sample_loader, "compile_kernels", lambda layers, note: pooled.append([*layers, note]))
    loader = SampleLoader(tiny_store(3, 1, 1), LAYERS[:2], device=torch.device("cpu"))
    loader.compile_kernels([2, 0], print)
    loader.compile_kernels([], print)
    ((*layers, note),) = pooled
    assert [(layer.count, layer.width) for layer in layers] == [(layer.tokens, layer.width) for layer in LAYERS[:2]]
    assert note is print
    assert loader.nbytes == 0
