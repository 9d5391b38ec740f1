"""The tasks by name. A new one is a folder beside this file and one row, here or in another package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mettle_cache.registry import Registry, TaskRow

if TYPE_CHECKING:
    from mettle_cache.tasks.protocol import Task

TASKS = Registry(
    "task",
    "mettle_cache.tasks",
    TaskRow,
    (
        TaskRow("avel", "mettle_cache.tasks.avel.task:AvelTask", recipe="ave-small"),
        TaskRow("avqa", "mettle_cache.tasks.avqa.task:AvqaTask", recipe="music-avqa-small"),
        TaskRow("avvp", "mettle_cache.tasks.avvp.task:AvvpTask", recipe="llp-small"),
        TaskRow("avs", "mettle_cache.tasks.avs.task:AvsTask", recipe="avs-s4-small"),
    ),
)


def get_task(name: str) -> type[Task]:
    """The task called ``name``.

    Raises
    ------
    UsageError
        No task has that name.
    PluginError
        The package that provides it is broken.
    """
    task: type[Task] = TASKS.load(name)
    return task
