"""Training and evaluation know no task: a class and a row are enough for another one, and a row for a data set."""

import ast
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import mettle_cache.pipelines
from mettle_cache.datasets.registry import DATASETS
from mettle_cache.errors import UsageError
from mettle_cache.methods.linear import LinearOptions
from mettle_cache.methods.mean_token import mean_token
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe
from mettle_cache.pipelines.train.training import train
from mettle_cache.registry import DatasetRow, TaskRow
from mettle_cache.tasks.protocol import PublishedRow, Task
from mettle_cache.tasks.registry import TASKS
from tests.pipelines.tiny_store import CATEGORIES


class Tagger(nn.Module):
    def __init__(self, layer, outputs):
        super().__init__()
        self.layer = layer
        self.linear = nn.Linear(layer.width, outputs)

    def forward(self, tokens):
        return {"tags": self.linear(mean_token(tokens[self.layer.name]).mean(1))}


class TaggingTask(Task):
    """One category for a video, from one layer."""

    sample_schema = pa.schema([("clip", pa.string()), ("category", pa.string())])
    options_type = LinearOptions
    metric = "hits"
    published = (
        PublishedRow(
            setting="ave-small",
            dataset="tags",
            visual="vit_l16",
            audio="shared",
            architectures=("vit", "shared"),
            scores={"hits": 50.0},
            total_m=1.0,
            trainable_percent=None,
            source="none",
            test_samples=6,
            counting="everything",
        ),
    )
    published_vocabulary: ClassVar = {"categories": CATEGORIES}
    published_segments = 10

    def __init__(self, layers, *, samples, vocabulary, segments, method, options):
        self.layers = layers[-1:]
        self.categories = vocabulary["categories"]
        self.tags = np.array([self.categories.index(name) for name in samples["category"].to_pylist()])

    def build_model(self):
        return Tagger(self.layers[0], len(self.categories))

    def targets(self, rows):
        return torch.from_numpy(self.tags[list(rows)])

    def loss(self, model, outputs, targets):
        return {"tags": nn.functional.cross_entropy(outputs["tags"], targets)}

    def predict(self, outputs, rows):
        return {"tags": outputs["tags"].argmax(-1).numpy()}

    def score(self, predictions, rows):
        return {"hits": 100 * float(np.mean(predictions["tags"] == self.tags[list(rows)]))}

    def details(self, predictions, rows):
        return {}

    def floors(self, rows):
        return {"always the first": self.score({"tags": np.zeros(len(rows), int)}, rows)["hits"]}

    def prediction_table(self, predictions, rows):
        return pa.table({"row": list(rows), "prediction": predictions["tags"]})


@pytest.fixture
def tagging(tmp_path, monkeypatch):
    """A package ``tags`` with a recipe, and rows of its task and of its data set."""
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "__init__.py").touch()
    text = 'task = "tagging"\n[head]\ndim = 3\n[train]\nepochs = 6\nlearning_rate = 0.03\n'
    (tmp_path / "tags" / "small.toml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    TASKS.register(TaskRow("tagging", f"{__name__}:TaggingTask", recipe="tags:small.toml"))
    DATASETS.register(DatasetRow("tags", "nowhere:INFO", task="tagging"))
    yield
    TASKS.unregister("tagging")
    DATASETS.unregister("tags")


@pytest.mark.usefixtures("tagging")
def test_a_class_and_a_row_train_and_evaluate(tmp_path, tiny_store):
    store = tiny_store(18, 6, 6, dataset="tags")
    assert default_recipe(store) == "tags:small.toml"
    recipe = load_recipe(default_recipe(store))
    assert (recipe.name, recipe.task, recipe.head.dim) == ("small", "tagging", 3)
    report = train(store, recipe=recipe, out=tmp_path / "run")
    assert report.metric == "hits"
    assert "val_hits" in report.history[0]
    result = evaluate(tmp_path / "run", store=store)
    assert result.scores["hits"] > result.floors["always the first"] + 30


@pytest.mark.usefixtures("tagging")
def test_recipes_of_packages_that_are_not_there_are_errors():
    with pytest.raises(UsageError, match=r"the package tags brings no recipe large\.toml"):
        load_recipe("tags:large.toml")
    with pytest.raises(UsageError, match=r"there is no recipe called 'nowhere:small\.toml'"):
        load_recipe("nowhere:small.toml")


def test_training_and_evaluation_import_no_task_but_by_its_name():
    folder = Path(mettle_cache.pipelines.__file__).parent
    # grounding is trained for one task's decoder, by a command of its own
    sources = {path for part in ("train", "evaluate") for path in (folder / part).glob("*.py")}
    for path in sources - {folder / "train" / "grounding.py"}:
        imported = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        named = [module for module in imported if str(module).startswith("mettle_cache.tasks.")]
        assert set(named) <= {"mettle_cache.tasks.protocol", "mettle_cache.tasks.registry"}, path
