import subprocess
import sys

import pytest

from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.recipe_file import list_recipes
from mettle_cache.tasks.avel.task import AvelTask
from mettle_cache.tasks.avvp.task import AvvpTask
from mettle_cache.tasks.registry import TASKS, get_task

TYPES = [get_task(name) for name in TASKS.names()]


@pytest.mark.parametrize(("name", "task"), [("avel", AvelTask), ("avvp", AvvpTask)])
def test_tasks_by_name(name, task):
    assert get_task(name) is task


def test_every_data_set_s_task_is_one_of_these():
    assert {row.task for row in DATASETS if row.task} == set(TASKS.names())


def test_every_recipe_that_a_row_names_is_of_that_task():
    recipes = [(row.name, row.recipe) for row in TASKS] + [(row.task, row.recipe) for row in DATASETS if row.recipe]
    assert len(recipes) >= 5
    assert all(recipe in list_recipes() and load_recipe(recipe).task == task for task, recipe in recipes)


def test_published_settings_are_told_apart_by_name_and_by_backbones():
    rows = [row for task in TYPES for row in task.published]
    assert len({row.setting for row in rows}) == len(rows)
    assert len({(row.dataset, row.visual, row.audio) for row in rows}) == len(rows)
    assert all(task.metric in row.scores for task in TYPES for row in task.published)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match=r"no task is called 'asr'\n  next: did you mean avs\? use one of avel"):
        get_task("asr")


def test_listing_loads_neither_tasks_nor_methods_nor_pytorch():
    code = """
import sys
from mettle_cache.decoders.registry import DECODERS
from mettle_cache.methods.registry import METHODS
from mettle_cache.tasks.registry import TASKS
assert all(registry.names() for registry in (DECODERS, METHODS, TASKS))
assert not {"torch", "mettle_cache.tasks.avel.task", "mettle_cache.methods.lcd"} & set(sys.modules), sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
