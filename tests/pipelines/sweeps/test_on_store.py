"""A sweep's rows as recipes for one store."""

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.sweeps.on_store import plan_rows
from mettle_cache.pipelines.sweeps.sweep_file import read_sweep


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 6)


def test_a_row_is_the_recipe_with_its_overrides(store):
    planned = plan_rows(read_sweep("table6"), store, "ave-small", common=["lcd.dim=16", "lcd.heads=4"])
    options = [one.recipe.method_options for one in planned]
    assert [(one.k_audio, one.k_visual) for one in options] == [(1, 1), (1, 2), (2, 1), (2, 2), (4, 4)]
    assert {one.dim for one in options} == {16}
    chosen = plan_rows(read_sweep("table6"), store, "ave-small", only=["K_a=4 K_v=4"])
    assert [one.row.name for one in chosen] == ["K_a=4 K_v=4"]


def test_a_model_that_cannot_be_built_is_a_row_that_is_not_possible(store):
    """The tiny store has two stages, for which four numbers of meta-tokens are no choice."""
    with pytest.raises(UsageError) as error:
        plan_rows(read_sweep("table7"), store, "ave-small")
    assert "2 of 3 rows are not possible" in error.value.message
    assert "8-4-2-1: 4 meta-token numbers for 2 stages" in error.value.message
    assert error.value.hint == "leave them out: --rows default"
