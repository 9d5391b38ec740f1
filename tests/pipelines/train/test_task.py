"""A recipe's task on a store, and on layers alone."""

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import bind_task, task_on_layers
from tests.pipelines.tiny_store import CATEGORIES, LAYERS, SEGMENTS

AVE, LLP = load_recipe("ave-small", ["lcd.dim=16"]), load_recipe("llp-small")


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(4, 2, 2)


def test_the_recipe_selects_the_layers(store):
    recipe = load_recipe("ave-small", ["layers=visual/s2b02,audio/s1"])
    task = bind_task(recipe, store)
    assert [layer.name for layer in task.layers] == ["visual/s2b02", "audio/s1b01"]
    with pytest.raises(UsageError, match=r"visual/s9"):
        bind_task(load_recipe("ave-small", ["layers=visual/s9"]), store)


def test_layers_that_the_method_drops_are_not_read_and_must_be_selected(store):
    lst = ["method=lst", "lst.width_visual=16", "lst.width_audio=16"]
    recipe = load_recipe("ave-small", [*lst, "lst.drop_layers=[visual/s2b01]"])
    task = bind_task(recipe, store)
    assert {layer.name for layer in LAYERS} - {layer.name for layer in task.layers} == {"visual/s2b01"}
    model = task.build_model()
    # as an exported head is rebuilt: from the layers that are read
    alone = task_on_layers(recipe, task.layers, vocabulary={"categories": CATEGORIES}, segments=SEGMENTS)
    assert alone.layers == task.layers
    alone.build_model().load_state_dict(model.state_dict())
    with pytest.raises(UsageError, match=r"lst\.drop_layers: no such layer is offered: visual/s2b03\n.*visual/s1b01"):
        bind_task(load_recipe("ave-small", [*lst, "lst.drop_layers=[visual/s2b03]"]), store)


def test_a_task_of_another_data_set_is_refused_with_those_that_it_takes(store):
    with pytest.raises(UsageError, match="is for avvp, which does not take the data set 'ave'") as caught:
        bind_task(LLP, store)
    assert caught.value.hint == "avvp takes: llp"


def test_a_data_set_that_nobody_here_knows_may_have_any_task_whose_columns_it_has(tiny_store):
    store = tiny_store(4, 2, 2, dataset="somebody-s")
    assert bind_task(AVE, store).targets([0]).shape[:2] == (1, SEGMENTS)
    with pytest.raises(UsageError, match=r"its samples have no .*, which avvp reads"):
        bind_task(LLP, store)


def test_layers_alone_are_enough_for_the_same_model(store):
    bound = bind_task(AVE, store).build_model().state_dict()
    alone = task_on_layers(AVE, LAYERS, vocabulary={"categories": CATEGORIES}, segments=SEGMENTS)
    assert {name: tensor.shape for name, tensor in alone.build_model().state_dict().items()} == {
        name: tensor.shape for name, tensor in bound.items()
    }
