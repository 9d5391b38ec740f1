import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.feed import Feed, epoch_order, read_split
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
    feed = Feed(store, LAYERS[:2], device=torch.device("cpu"))
    clips = store.samples["clip"].to_pylist()
    groups = []
    # one by one: a batch's memory is reused
    for rows, batch in feed.batches([3, 0, 1, 4, 2], 2):
        groups.append(rows)
        assert set(batch.layers) == {layer.name for layer in LAYERS[:2]}
        assert [store.clips[clip] for clip in batch.clips] == [clips[row] for row in rows]
        for position, row in enumerate(rows):
            stored = store.read([store.clips.index(clips[row])]).layers
            for name, layer in batch.layers.items():
                assert torch.equal(layer.codes[position], stored[name].codes[0])
    assert groups == [[3, 0], [1, 4], [2]]
