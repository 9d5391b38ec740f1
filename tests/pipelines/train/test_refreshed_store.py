"""A store whose clips were extracted again after a run was trained on it: the run is not taken for one of these."""

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.evaluate import evaluate
from mettle_cache.pipelines.train import load_recipe, train
from mettle_cache.store import StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers
from tests.pipelines.tiny_store import clip_tokens, write_tiny_store

SHORT = ["train.epochs=1", "lcd.dim=16", "train.batch_size=8"]
CHANGED = "data: the store's clips were extracted again, or added, since the run was trained"


def refresh(store, index):
    """Write other tokens of a clip, of other media."""
    opened = TokenStore.open(store)
    sample = {"category": "Bark", "start": 0, "end": 3}
    tokens = encode_layers(clip_tokens(sample, 900 + index, opened.layers), get_codec(opened.codec))
    with StoreWriter.join(store) as writer:
        writer.forget({index: writer.made_of()[index]})
        assert writer.pending() == [index]
        writer.write_clip(index, tokens, source="f" * 32)
        assert writer.finish().finished


def test_a_run_on_other_bytes_is_told_apart(tmp_path):
    store = tmp_path / "s.zarr"
    write_tiny_store(store, 8, 4, 4)
    run, recipe = tmp_path / "run", load_recipe("ave-small", SHORT)
    train(TokenStore.open(store), recipe=recipe, out=run)
    before = evaluate(run, pictures=False)
    assert CHANGED not in before.differs
    key, content = TokenStore.open(store).key_digest, TokenStore.open(store).content_digest
    refresh(store, 0)
    assert TokenStore.open(store).key_digest == key
    assert TokenStore.open(store).content_digest != content
    after = evaluate(run, pictures=False)
    assert CHANGED in after.differs
    assert not after.comparable
    assert after.scores == before.scores  # clip 0 is in train
    with pytest.raises(RunError, match="extracted again, or added, since the run began"):
        train(TokenStore.open(store), recipe=load_recipe("ave-small", [*SHORT, "train.epochs=2"]), out=run, resume=True)
    # the same bytes again are the same store
    again = tmp_path / "again.zarr"
    write_tiny_store(again, 8, 4, 4)
    assert CHANGED not in evaluate(run, store=again, pictures=False).differs
