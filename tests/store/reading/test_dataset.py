"""A split of a store in a DataLoader: the store's own tokens and targets, in this process and in spawned ones."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mettle_cache.errors import UsageError
from mettle_cache.store import TokenDataset, TokenStore
from mettle_cache.tokens import TokenBatch
from tests.store.tiny import LAYERS, SEGMENTS, clip_tokens, make_spec, raw_tokens, write_store

CLIPS = 6


class MeanTask:
    """A target for each segment, which the mean of a layer's tokens tells."""

    layers = (LAYERS[1], LAYERS[-1])

    def __init__(self, clips):
        self._clips = clips

    def targets(self, rows):
        return torch.stack([raw_tokens(self._clips[row])[LAYERS[1].name].mean((-2, -1)) for row in rows])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "s.zarr"
    write_store(path, make_spec(clips=CLIPS), failed=[4])
    return TokenStore.open(path)


def task():
    return MeanTask([*range(CLIPS), 0])


def test_a_sample_is_the_clip_s_tokens_and_the_task_s_targets(store):
    dataset = TokenDataset(store, "train", task=task())
    assert dataset.rows == [0, 1, 2, 3, 5], "clip 4 has no tokens, and row 6 is of another split"
    sample = dataset[4]
    assert (sample["row"], sample["clips"]) == (5, (5,))
    assert set(sample["tokens"]) == {layer.name for layer in MeanTask.layers}
    for name, tokens in sample["tokens"].items():
        assert torch.equal(tokens.codes, clip_tokens(5)[name].codes)
        assert torch.equal(tokens.floats(), clip_tokens(5)[name].floats())
    assert torch.equal(sample["targets"], task().targets([5])[0])


def test_a_batch_is_what_the_store_reads_of_these_clips(store):
    dataset = TokenDataset(store, "train", layers=["visual/s2b02"])
    batch = dataset.collate([dataset[3], dataset[0]])
    expected = store.read([3, 0], ["visual/s2b02"])
    assert isinstance(batch["tokens"], TokenBatch)
    assert batch["tokens"].clips == expected.clips == (3, 0)
    assert torch.equal(batch["tokens"].layers["visual/s2b02"].floats(), expected.layers["visual/s2b02"].floats())
    assert batch["rows"].tolist() == [3, 0]
    assert "targets" not in batch


def test_all_layers_are_read_where_neither_a_task_nor_a_name_says_which(store):
    assert TokenDataset(store, "val").layers == [layer.name for layer in LAYERS]


def test_a_sample_of_several_clips_has_their_segments_one_after_the_other(tmp_path):
    samples = pa.table({"clip": ["v"], "clips": [["clip-2", "clip-0"]], "split": ["train"]})
    write_store(tmp_path / "s.zarr", make_spec(clips=3, samples=samples))
    with TokenStore.open(tmp_path / "s.zarr") as store:
        sample = TokenDataset(store, "train")[0]
        for name, tokens in sample["tokens"].items():
            assert tokens.codes.shape[0] == 2 * SEGMENTS
            assert torch.equal(tokens.codes, torch.cat([clip_tokens(2)[name].codes, clip_tokens(0)[name].codes]))


def test_a_sample_that_lacks_one_of_its_clips_is_left_out(tmp_path):
    clips = [["clip-0", "clip-1"], ["clip-1", "clip-2"], ["clip-2", "clip-0"]]
    samples = pa.table({"clip": ["u", "v", "w"], "clips": clips, "split": ["train"] * 3})
    write_store(tmp_path / "s.zarr", make_spec(clips=3, samples=samples), failed=[1])
    with TokenStore.open(tmp_path / "s.zarr") as store:
        assert TokenDataset(store, "train").rows == [2]


def test_what_is_not_there_is_refused(store, tmp_path):
    with pytest.raises(UsageError, match=r"has no split 'tset'\n.*use one of train, val"):
        TokenDataset(store, "tset")
    with pytest.raises(UsageError, match="has no layer visual/s9b01"):
        TokenDataset(store, "train", layers=["visual/s9b01"])
    write_store(tmp_path / "s.zarr", make_spec(clips=1), failed=[0])
    with pytest.raises(UsageError, match="no sample of split 'train' has tokens"):
        TokenDataset(TokenStore.open(tmp_path / "s.zarr"), "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_training_loop_learns_from_a_data_loader(store, workers, monkeypatch):
    """Targets are the mean of a layer's tokens, so a linear of the mean token reaches them."""
    # a spawned process imports the task's class by the name of this module
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    dataset = TokenDataset(store, "train", task=task())
    torch.manual_seed(0)
    loader = DataLoader(
        dataset,
        batch_size=2,
        shuffle=True,
        collate_fn=dataset.collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )
    head = nn.Linear(LAYERS[1].width, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(60 if workers == 0 else 3):
        total = 0.0
        for batch in loader:
            means = batch["tokens"].layers[LAYERS[1].name].floats().mean(-2)
            loss = nn.functional.mse_loss(head(means).squeeze(-1), batch["targets"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < losses[0] * (0.1 if workers == 0 else 1)


@pytest.mark.gpu
def test_batches_can_be_pinned(store):
    dataset = TokenDataset(store, "train", task=task())
    loader = DataLoader(dataset, batch_size=2, collate_fn=dataset.collate, pin_memory=True)
    for batch in loader:
        assert all(layer.codes.is_pinned() for layer in batch["tokens"].layers.values())
        moved = batch["tokens"].to("cuda", non_blocking=True)
        assert all(layer.codes.is_cuda for layer in moved.layers.values())
