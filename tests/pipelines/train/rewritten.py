"""Changes to a run that its record knows of, for tests that need a run which training would not make."""

import json
from dataclasses import replace

from mettle_cache.pipelines.train.checkpoint import load_checkpoint, save_checkpoint
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import write_file


def rewrite_recipe(run, table, key, value):
    """Set ``[table] key`` of a run's recipe."""
    config = RunFolder(run).read_config()
    recipe = {**config.recipe, table: {**config.recipe[table], key: value}}
    RunFolder(run).commit({}, config=replace(config, recipe=recipe))


def rewrite_store(run, path):
    """Let a run remember another place of its store."""
    config = RunFolder(run).read_config()
    RunFolder(run).commit({}, config=replace(config, store=replace(config.store, path=str(path))))


def rewrite_best(run, change):
    """Apply ``change`` to the tensors of a run's best epoch."""
    folder = RunFolder(run)
    tensors, state = load_checkpoint(folder.best)
    change(tensors)
    folder.commit({folder.best: lambda path: save_checkpoint(path, tensors, state)})


def rewrite_result(run, change):
    """Apply ``change`` to what a run's ``result.json`` holds."""
    folder = RunFolder(run)
    result = folder.read_result()
    change(result)
    folder.commit({folder.result: lambda path: write_file(path, json.dumps(result).encode())})
