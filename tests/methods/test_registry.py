import pytest

from mettle_cache.errors import PluginError, UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.lcd import KIND, LCD, LCDOptions
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.protocol import Method, MethodKind, PerModality, layers_of
from mettle_cache.methods.registry import METHODS, MethodChoice, method_kind
from mettle_cache.registry import MethodRow
from tests.methods.test_lcd import clip_tokens

LAYERS = tuple(
    LayerSpec(modality=modality, stage=stage, block=1, grid=(2, 2), tokens=4, width=8 * stage)
    for modality in ("visual", "audio")
    for stage in (1, 2)
)


@pytest.fixture
def row():
    """``row(target)`` registers a method called ``other``."""
    yield lambda target: METHODS.register(MethodRow("other", target))
    METHODS.unregister("other")


def test_a_method_of_each_modality_is_built_in_that_order():
    method = MethodChoice("lcd", LCDOptions(dim=8, k_audio=3)).build(LAYERS)
    assert isinstance(method, PerModality)
    assert isinstance(method.visual, LCD)
    assert method.layers == LAYERS
    assert (method.visual_dim, method.audio_dim, method.companions) == (8, 8, ())
    tokens = clip_tokens("int8", LAYERS)
    meta_tokens = method(tokens)
    assert meta_tokens.losses == {}
    assert meta_tokens.visual.equal(method.visual(tokens))
    assert meta_tokens.audio.equal(method.audio(tokens))


def test_the_layers_that_are_read():
    assert MethodChoice("lcd", LCDOptions()).layers(LAYERS) == LAYERS
    assert MethodChoice("linear", LinearOptions()).layers(LAYERS) == (LAYERS[1], LAYERS[3])


def test_both_modalities_are_needed():
    assert layers_of(LAYERS, "audio") == LAYERS[2:]
    with pytest.raises(UsageError, match=r"none of the 2 layers is audio.*\n.*select layers of both"):
        MethodChoice("linear", LinearOptions()).build(LAYERS[:2])


def test_options_of_another_method_are_refused():
    with pytest.raises(UsageError, match="the method linear takes LinearOptions, not LCDOptions"):
        MethodChoice("linear", LCDOptions()).build(LAYERS)


def test_a_row_s_object_must_be_a_kind(row):
    assert method_kind("lcd") is KIND
    assert isinstance(method_kind("linear"), MethodKind)
    row("mettle_cache.methods.lcd:LCD")
    with pytest.raises(PluginError, match=r"mettle_cache\.methods\.lcd:LCD is no MethodKind but a type"):
        method_kind("other")


class WithCompanion(Method):
    """Needs a file that no store has beside it."""

    layers, visual_dim, audio_dim, companions = LAYERS, 8, 8, ("ranks.npz",)


COMPANION_KIND = MethodKind(LinearOptions, lambda layers, options: WithCompanion())


def test_a_method_that_needs_files_beside_the_store_is_refused(row):
    row(f"{__name__}:COMPANION_KIND")
    with pytest.raises(UsageError, match=r"the method other needs ranks\.npz beside the store, which is not there"):
        MethodChoice("other", LinearOptions()).build(LAYERS)
