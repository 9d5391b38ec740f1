"""Heads that no video can serve."""

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.predict.head import _task
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.token_origin import TokenOrigin
from tests.pipelines.tiny_store import LAYERS


def origin():
    fields = {"dataset": "llp", "segments": 10, "codec": "int8", "codec_version": 1, "layers": LAYERS}
    return TokenOrigin(**fields, vocabulary={"categories": ["Dog", "Cello"]}, extraction={}, command="", store="0")


def test_motion_features_are_named():
    recipe = load_recipe("llp-small", ["lcd.dim=16", "head.motion=true"])
    with pytest.raises(UsageError, match=r"reads R\(2\+1\)D motion features beside pictures and sound"):
        _task(recipe, origin(), {})
    plain = load_recipe("llp-small", ["lcd.dim=16", "head.motion=false"])
    assert _task(plain, origin(), {}).beside_media() == ""


def test_an_origin_is_read_back_as_it_was_written():
    assert TokenOrigin.from_json(origin().to_json()) == origin()
