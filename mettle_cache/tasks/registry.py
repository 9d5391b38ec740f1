"""The tasks by name. A task is one file beside this one and one line here."""

from __future__ import annotations

from mettle_cache.errors import UsageError
from mettle_cache.tasks.avel.task import AvelTask
from mettle_cache.tasks.avqa.task import AvqaTask
from mettle_cache.tasks.avs.task import AvsTask
from mettle_cache.tasks.avvp.task import AvvpTask
from mettle_cache.tasks.protocol import Task

TASKS: dict[str, type[Task]] = {"avel": AvelTask, "avqa": AvqaTask, "avvp": AvvpTask, "avs": AvsTask}


def get_task(name: str) -> type[Task]:
    """The task called ``name``.

    Raises
    ------
    UsageError
        No task has that name.
    """
    if name not in TASKS:
        raise UsageError(f"no task is called '{name}'", hint=f"use one of {', '.join(TASKS)}")
    return TASKS[name]


def task_of_dataset(dataset: str) -> str:
    """The name of the task that a data set is for.

    Raises
    ------
    UsageError
        No task is for that data set.
    """
    for name, task in TASKS.items():
        if dataset in task.datasets:
            return name
    raise UsageError(
        f"no task is for the data set '{dataset}'", hint=f"data sets with a task: {', '.join(_datasets())}"
    )


def _datasets() -> list[str]:
    return [dataset for task in TASKS.values() for dataset in task.datasets]
