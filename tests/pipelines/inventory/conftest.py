"""Stores and runs in every state, as folders of a few small files."""

import json
import shutil

import pytest


@pytest.fixture(scope="session")
def finished_store(tiny_store):
    return tiny_store(2, 1, 1).path


@pytest.fixture
def make(finished_store):
    """``make(path, kind)``: a store or a run of that state at a path."""

    def make_one(path, kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind.endswith("store"):
            return _make_store(finished_store, path, kind)
        return _make_run(path, kind)

    return make_one


def _make_store(whole, path, kind):
    shutil.copytree(whole, path)
    shard = next(iter(sorted(path.rglob("c.0.*"))))
    if kind != "finished store":
        shard.with_name(f"{shard.name}.partial").write_bytes(b"left")
    if kind == "unfinished store":
        (path / "READY").unlink()
        (path / "manifest.parquet").unlink()
    if kind == "foreign store":
        shutil.rmtree(path)
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        (path / "data.partial").write_bytes(b"mine")
    return path


def _make_run(path, kind):
    path.mkdir(parents=True)
    store = {"path": "/stores/ave.zarr", "key_digest": "k", "dataset": "ave", "codec": "int8"}
    record = {"recipe": {"train": {"epochs": 2}}, "store": store, "format": "mettle-run-2"}
    if kind == "foreign run":
        record = {"architectures": ["BertModel"]}
    (path / "config.json").write_text("{" if kind == "damaged run" else json.dumps(record))
    epochs = 1 if kind == "unfinished run" else 2
    (path / "metrics.csv").write_text("epoch,loss\n" + "".join(f"{epoch},1\n" for epoch in range(epochs)))
    for name in ("best.safetensors", "last.safetensors", "last.safetensors.next", "x.partial", ".tmpAb12cd", "notes"):
        (path / name).write_bytes(name.encode())
    if kind in ("finished run", "evaluated run"):
        result = {"training": {"metric": "accuracy", "selected_on": "val", "best_score": 53.75}}
        if kind == "evaluated run":
            result["evaluation"] = {"test": {"metric": "accuracy", "scores": {"accuracy": 22.5}}}
        (path / "result.json").write_text(json.dumps(result))
    return path
