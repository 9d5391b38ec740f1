"""A trained head on media: against the store's tokens and evaluation's own table, without the store, with its words."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import mettle_cache
from mettle_cache.backbones import create_backbone
from mettle_cache.cli.main import run as command
from mettle_cache.errors import RunError, StoreMissingError, UsageError, WeightsError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.predict.answer import find_events
from mettle_cache.pipelines.predict.media import find_media
from mettle_cache.pipelines.predict.predictor import Predictor
from mettle_cache.pipelines.predict.windows import open_windows, plan_windows
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.pipelines.train.token_origin import FILE
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from mettle_cache.store.writing.durable import write_file
from tests.datasets.folder_files import write_folder
from tests.pipelines.extraction import tiny

CNN = "test_efficientnet@64"
SMALL = ('method="linear"', "linear.dim=16", "train.epochs=1", "train.batch_size=4")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Clips of 3 s: those with an even number are .mp4, the others .wav and pictures."""
    folder = tmp_path_factory.mktemp("media") / "clips"
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file, as a user downloads one."""
    path = tmp_path_factory.mktemp("downloads") / "net.safetensors"
    backbone = create_backbone(CNN, weights="random", seed=3)
    save_file({name: x.contiguous() for name, x in backbone.trunk.network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module", params=["int8", "klt1.5"])
def trained(request, media, weights, tmp_path_factory):
    """A store of the clips, and a run on it that was evaluated."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {"dataset": "folder", "options": ("duration=3",), "codec": request.param, "audio": "shared"}
    extract(tiny(media, folder / "store.zarr", **changes, visual=f"{CNN}={weights}"))
    store = TokenStore.open(folder / "store.zarr")
    train(store, recipe=load_recipe("ave-small", SMALL), out=folder / "run")
    evaluate(folder / "run", store=store)
    return store, folder / "run"


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.load(trained[1])


@pytest.mark.parametrize("name", ["test-0.mp4", "test-1"])
def test_a_clip_of_the_store_gives_its_tokens_and_evaluation_s_answer(name, trained, predictor, media):
    store, run = trained
    (item,) = find_media([media / name])
    (window,) = open_windows(plan_windows(item, predictor.encoder.form), predictor.encoder.form)
    with reproducible_passes(torch.device("cpu")):
        tokens, _ = predictor.encoder.encode(predictor.encoder.read(window, item.path))
    stored = store.read([store.clips.index(item.path.stem)]).layers
    assert tokens.keys() == {layer.name for layer in predictor.head.task.layers}
    for layer, ours in tokens.items():
        assert torch.equal(ours.codes, stored[layer].codes)
        assert all(torch.equal(part, stored[layer].parts[key]) for key, part in ours.parts.items())
    table = pq.read_table(run / "predictions-test.parquet").to_pylist()
    expected = [row for row in table if row["clip"] == item.path.stem]
    (row,) = predictor(media / name).rows()
    assert row["labels"] == [segment["prediction_name"] for segment in expected]
    np.testing.assert_allclose(row["probabilities"], [segment["scores"] for segment in expected], atol=1e-5)


def test_neither_the_store_nor_the_run_is_needed(trained, predictor, media, tmp_path):
    store, run = trained
    exported = export_run(run, store=store, out=tmp_path / "heads.safetensors", repeats=1).out
    elsewhere = shutil.copytree(run, tmp_path / "run")
    config = RunFolder(elsewhere).read_config()
    gone = replace(config, store=replace(config.store, path=str(tmp_path / "gone.zarr")))
    write_file(elsewhere / "config.json", gone.to_bytes())
    (expected,) = predictor(media / "test-0.mp4").rows()
    for place in (elsewhere, exported):
        (row,) = Predictor.load(place)(media / "test-0.mp4").rows()
        assert row["labels"] == expected["labels"]
        np.testing.assert_allclose(row["probabilities"], expected["probabilities"], atol=1e-5)
    earlier = {name: digest for name, digest in gone.files.items() if name != FILE}
    write_file(elsewhere / "config.json", replace(gone, files=earlier).to_bytes())
    with pytest.raises(StoreMissingError, match=r"its store is not at .*an earlier version trained this run"):
        Predictor.load(elsewhere)
    assert Predictor.load(elsewhere, store=store.path).head.origin == predictor.head.origin


def test_weights_are_known_by_their_digest(trained, weights, tmp_path, monkeypatch):
    run = trained[1]
    monkeypatch.chdir(tmp_path)
    # nothing is remembered of where they were
    monkeypatch.setenv("METTLE_MEMORY", str(tmp_path / "memory"))
    other = tmp_path / "weights" / "net.safetensors"
    other.parent.mkdir()
    backbone = create_backbone(CNN, weights="random", seed=4)
    save_file({name: x.contiguous() for name, x in backbone.trunk.network.state_dict().items()}, other)
    with pytest.raises(WeightsError, match=r"are not on this machine; tried: .*net.safetensors \(other weights\)"):
        Predictor.load(run)
    with pytest.raises(WeightsError, match="these are other weights"):
        Predictor.load(run, visual=f"{CNN}={other}")
    with pytest.raises(UsageError, match=f"the tokens that this head reads are {CNN}'s"):
        Predictor.load(run, visual=f"test_vit@64={weights}")
    shutil.copy(weights, other.with_name("downloaded.bin.safetensors"))
    assert Predictor.load(run).notes == ()


def test_one_command_answers_what_can_be_read(trained, media, tmp_path, capsys):
    shutil.copy(media / "test-0.mp4", tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"<html>not found</html>")
    shutil.copy(media / "train-0.mp4", tmp_path / "c.mp4")
    out = tmp_path / "answers"
    assert command(["predict", str(trained[1]), str(tmp_path), "--out", str(out), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert rows == report["answered"]
    assert [row["name"] for row in rows] == ["a", "c"]
    assert list(report["failures"]) == [str(tmp_path / "b.mp4")]
    assert pq.read_table(out / "predictions.parquet").to_pylist() == rows
    for row in rows:
        cues = re.findall(
            r"^00:00:0(\d),000 --> 00:00:0(\d),000\n(.*) \d+ %$", (out / f"{row['name']}.srt").read_text(), re.M
        )
        assert cues == [(str(e["start"]), str(e["end"]), e["label"]) for e in row["events"]]
        assert (out / f"{row['name']}.png").read_bytes().startswith(b"\x89PNG")


def test_a_head_that_an_earlier_version_exported_is_refused(trained, tmp_path):
    from mettle_cache.methods.folded import FOLDED_FORMAT, read_folded
    from mettle_cache.pipelines.train.checkpoint import write_tensors

    exported = export_run(trained[1], store=trained[0], out=tmp_path / "heads.safetensors", repeats=1).out
    tensors, table = read_folded(exported)
    write_tensors(exported, tensors, FOLDED_FORMAT, {k: v for k, v in table.items() if k not in ("tokens", "digest")})
    with pytest.raises(RunError, match="an earlier version exported this head") as caught:
        Predictor.load(exported)
    assert "mettle export" in caught.value.hint


def test_events_are_runs_of_seconds_with_their_mean_score():
    active = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    events = list(find_events(active, np.array([0.5, 0.7, 0.1, 0.9, 0, 0, 1.0]), "Dog"))
    assert [(event.start, event.end, event.score) for event in events] == [(0, 2, 0.6), (3, 4, 0.9), (6, 7, 1.0)]


def test_the_public_name():
    assert mettle_cache.Predictor is Predictor
