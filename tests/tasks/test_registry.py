import pytest

from mettle_cache.errors import UsageError
from mettle_cache.tasks.avel.task import AvelTask
from mettle_cache.tasks.avvp.task import AvvpTask
from mettle_cache.tasks.registry import TASKS, get_task, task_of_dataset


@pytest.mark.parametrize(("dataset", "name", "task"), [("ave", "avel", AvelTask), ("llp", "avvp", AvvpTask)])
def test_a_data_set_has_its_task(dataset, name, task):
    assert get_task(name) is task
    assert task_of_dataset(dataset) == name


def test_each_data_set_has_one_task():
    datasets = [dataset for task in TASKS.values() for dataset in task.datasets]
    assert len(set(datasets)) == len(datasets)


def test_published_settings_are_told_apart_by_name_and_by_backbones():
    rows = [row for task in TASKS.values() for row in task.published]
    assert len({row.setting for row in rows}) == len(rows)
    assert len({(row.dataset, row.visual, row.audio) for row in rows}) == len(rows)
    assert all(task.metric in row.scores for task in TASKS.values() for row in task.published)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match=r"no task is called 'asr'\n  next: use one of avel"):
        get_task("asr")
    with pytest.raises(UsageError, match=r"no task is for the data set 'kinetics'\n  next: data sets with a task: ave"):
        task_of_dataset("kinetics")
