"""Weights & Biases offline and MLflow in a file of SQLite's, as their own readers see what a training wrote.

Run by ``make test-loggers``, in an environment that has them; skipped where they are missing.
"""

import struct

import numpy as np
import pytest

from mettle_cache.pipelines.train.loggers.protocol import LoggedRun
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.spec import RunSpec
from mettle_cache.pipelines.train.training import train_runs

# the warnings of others are theirs
pytestmark = [pytest.mark.loggers, pytest.mark.filterwarnings("default")]

PICTURE = np.zeros((4, 6, 3), dtype=np.uint8)


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log, blocks of 32 KiB after seven bytes, records of up to four kinds."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


def specs(folder, epochs):
    recipe = load_recipe("ave-small", ["lcd.dim=16", f"train.epochs={epochs}"])
    return [RunSpec(recipe=recipe, seed=seed, folder=folder, name=f"seed-{seed}") for seed in (0, 1)]


def test_mlflow_has_the_numbers_of_both_heads_and_goes_on_after_a_resume(tiny_store, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "heads")
    monkeypatch.chdir(tmp_path)
    store = tiny_store(8, 4, 4)
    train_runs(store, specs(tmp_path / "runs", 1), log=("mlflow",))
    report = train_runs(store, specs(tmp_path / "runs", 2), resume=True)
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("heads").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"seed-0": "FINISHED", "seed-1": "FINISHED"}
    for head in report.heads:
        (run,) = [run for run in runs if run.info.run_name == f"seed-{head.seed}"]
        history = client.get_metric_history(run.info.run_id, "epoch/val_accuracy")
        assert [point.value for point in history] == [row["val_accuracy"] for row in head.history]
        assert run.data.params["lcd.dim"] == "16"
        assert run.data.metrics["best/accuracy"] == head.best_score
        assert run.data.tags["group"] == "runs"


def test_mlflow_takes_pictures(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    from mettle_cache.pipelines.train.loggers.mlflow_runs import MLflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    log = MLflow(LoggedRun(folder=tmp_path, name="a", group="", settings={"a long (odd) name": "x" * 9000}))
    log.images({"val/a clip: 1": PICTURE}, step=3)
    log.close({}, "stopped")
    assert any(path.suffix == ".png" for path in tmp_path.rglob("*"))
    assert mlflow.MlflowClient().get_run(log.identity).info.status == "KILLED"


def test_weights_and_biases_offline_has_a_run_for_each_head(tiny_store, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "heads")
    report = train_runs(tiny_store(8, 4, 4), specs(tmp_path / "runs", 2), log=("wandb",))
    assert wandb.run is None
    for head in report.heads:
        (written,) = RunFolder(head.out).path.glob("wandb/offline-run-*/*.wandb")
        config, scores, names = {}, [], set()
        for record in wandb_records(written):
            names |= {record.run.display_name} - {""}
            config |= {item.key: item.value_json for item in record.run.config.update}
            for item in record.history.item:
                if "epoch/val_accuracy" in (item.key, *item.nested_key):
                    scores.append(float(item.value_json))
        assert names == {f"seed-{head.seed}"}
        assert scores == [row["val_accuracy"] for row in head.history]
        assert str(tmp_path).encode() not in b"".join(value.encode() for value in config.values())
