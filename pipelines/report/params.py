"""Parameter accounting: what the published settings count here, beside what the paper prints.

Sources: docs/protocols/avel.md, "Parameter accounting", and that of each other task.

The trainable part is the real model of the setting's recipe, built on the meta device from layer tables; the frozen
part is counted as the papers do. No weights are needed.
"""

from __future__ import annotations

from mettle_cache.backbones.factory import frozen_parameters, layer_table
from mettle_cache.layers import select_layers
from mettle_cache.meta_device import on_meta
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import task_on_layers
from mettle_cache.preprocessing import SHARED
from mettle_cache.tasks.protocol import PublishedRow, Task
from mettle_cache.tasks.registry import TASKS, get_task


def params_table() -> list[dict[str, object]]:
    """One row for each setting whose total is published, in millions of parameters and percent.

    Keys: setting, total_m, trainable_percent, trained_m (what our head really trains), paper_total_m,
    paper_trainable_percent (None where the paper prints none), difference_m (ours less the paper's), counting (what the
    totals count).
    """
    rows = [(task, row) for task in map(get_task, TASKS.names()) for row in task.published]
    return [_account(task, row, row.total_m) for task, row in rows if row.total_m is not None]


def _account(task: type[Task], row: PublishedRow, published: float) -> dict[str, object]:
    trained = count_trainable(task, row)
    trainable = trained + row.unused
    backbones = [row.visual] if row.audio == SHARED else [row.visual, row.audio]
    total = trainable + sum(frozen_parameters(name) for name in backbones)
    counted_as_trained = sum(frozen_parameters(name) for name in row.counted_trainable)
    return {
        "setting": row.setting,
        "total_m": round(total / 1e6, 3),
        "trainable_percent": round(100 * (trainable + counted_as_trained) / total, 2),
        "trained_m": round(trained / 1e6, 3),
        "paper_total_m": published,
        "paper_trainable_percent": row.trainable_percent,
        "difference_m": round(total / 1e6 - published, 3),
        "counting": row.counting,
    }


def count_trainable(task: type[Task], row: PublishedRow) -> int:
    """Parameters of the model that the setting's recipe trains."""
    recipe = load_recipe(row.setting)
    heard = row.visual if row.audio == SHARED else row.audio
    layers = (*layer_table(row.visual, "visual"), *layer_table(heard, "audio"))
    bound = task_on_layers(
        recipe,
        select_layers(layers, recipe.layers),
        vocabulary=task.published_vocabulary,
        segments=task.published_segments,
    )
    with on_meta():
        model = bound.build_model()
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
