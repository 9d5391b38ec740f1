"""The table of kinds: what it names, and that options choose from it."""

from mettle_cache.pipelines.figures.kinds import EVENT_TASKS, KINDS, LEARNING_CURVES, FigureOptions
from mettle_cache.tasks.registry import TASKS


def test_kinds_are_for_tasks_that_there_are():
    named = {task for kind in KINDS.values() for task in kind.tasks or ()}
    assert named == {*EVENT_TASKS, "avs"}
    assert named <= set(TASKS.names())


def test_options_choose_kinds():
    assert all(FigureOptions().wants(kind) for kind in (LEARNING_CURVES, *KINDS))
    chosen = FigureOptions(only=("masks", "timelines"))
    assert [kind for kind in (LEARNING_CURVES, *KINDS) if chosen.wants(kind)] == ["timelines", "masks"]
