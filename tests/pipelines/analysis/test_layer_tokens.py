"""Cosine maps and fusion weights of a trained run, against its model's own tokens, segment by segment."""

import json

import numpy as np
import pytest
import torch

from mettle_cache.cli.analyse import fusion_lines
from mettle_cache.cli.main import run
from mettle_cache.errors import UsageError
from mettle_cache.methods.molt import MoLT
from mettle_cache.methods.molt_fusion import orthogonality_loss
from mettle_cache.pipelines.analysis.layer_tokens import LayerWiseMethod, layer_token_facts
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.train.checkpoint import load_checkpoint, load_model
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train

MOLT = ["method=molt", "molt.dim=16", "molt.late=2", "molt.k=2", "molt.reduction=4", "train.epochs=2"]


def write_run(store, out, *changes):
    train(store, recipe=load_recipe("ave-small", [*MOLT, "train.learning_rate=0.01", *changes]), out=out)
    return out


@pytest.fixture(scope="module")
def runs(tiny_store, tmp_path_factory):
    """One with the regulariser and one without, by its weight."""
    store, folder = tiny_store(24, 6, 6), tmp_path_factory.mktemp("runs")
    return {weight: write_run(store, folder / f"molt-{weight}", f"molt.orthogonality={weight}") for weight in (0, 10.0)}


def test_molt_trains_by_a_recipe_and_the_regulariser_works(runs, tiny_store):
    store = tiny_store(24, 6, 6)
    found = {weight: layer_token_facts(path, split="val") for weight, path in runs.items()}
    assert found[10.0].options["orthogonality"] == 10.0
    for modality in ("visual", "audio"):
        assert found[10.0].modalities[modality].squared < found[0].modalities[modality].squared
    report = evaluate(runs[0], store=store, pictures=False)
    assert report.samples == 6
    assert "method = molt instead of lcd" in " ".join(report.differs)


def test_facts_are_means_over_the_segments_of_the_split(runs, tiny_store):
    store, path = tiny_store(24, 6, 6), runs[10.0]
    report = layer_token_facts(path, split="test")
    assert (report.samples, report.split, report.method) == (6, "test", "molt")
    model = bind_task(load_recipe("ave-small", MOLT), store).build_model()
    load_model(model, load_checkpoint(path / "best.safetensors")[0], where=path)
    method = model.eval().method
    assert isinstance(method, MoLT)
    assert isinstance(method, LayerWiseMethod)
    tokens = store.read([clip for clip in store if clip.startswith("test")]).layers
    with torch.no_grad():
        layered = method.layer_tokens(tokens)
        weights = method.fusion_weights(layered)
    for modality, facts in report.modalities.items():
        vectors = layered[modality].flatten(2, 3).flatten(0, 1).double().numpy()
        norms = np.linalg.norm(vectors, axis=-1)
        cosines = np.array([frame @ frame.T / np.outer(norm, norm) for frame, norm in zip(vectors, norms, strict=True)])
        np.testing.assert_allclose(facts.cosines, cosines.mean(0), atol=1e-5)
        assert facts.cosines.shape == (4, 4)
        assert facts.squared == pytest.approx(orthogonality_loss(torch.from_numpy(vectors)).item(), rel=1e-4)
        shares = weights[modality].flatten(0, 1).double().numpy()
        np.testing.assert_allclose(facts.weights, shares.mean(0), atol=1e-6)
        np.testing.assert_allclose(facts.spread, shares.std(0), atol=1e-4)
        np.testing.assert_allclose(facts.layer_weights.sum(), 1, atol=1e-6)
        assert facts.layers == tuple(layer.name for layer in method.layers if layer.modality == modality)


def test_the_command_compares_runs(runs, capsys):
    capsys.readouterr()
    assert run(["analyse", "fusion", *map(str, runs.values()), "--split", "val", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["options"]["orthogonality"] for each in document["runs"]] == [0.0, 10.0]
    assert np.array(document["runs"][0]["modalities"]["audio"]["cosines"]).shape == (4, 4)
    lines = fusion_lines([layer_token_facts(path, split="val") for path in runs.values()])
    assert lines[0].split("  ")[0] == "run"
    assert lines[-1] == "split      val, 6 samples"
    assert run(["analyse"]) == 2
    assert "name an analysis: similarity or fusion" in capsys.readouterr().err


def test_an_exported_head_is_the_same_function(runs, tiny_store):
    store, path = tiny_store(24, 6, 6), runs[0]
    report = export_run(path, store=store, repeats=1)
    assert (report.method, report.folded, report.kept) == ("molt", {}, {})
    head, tokens = load_exported(report.out), store.read([0, 1]).layers
    model = bind_task(load_recipe("ave-small", [*MOLT, "molt.orthogonality=0"]), store).build_model()
    load_model(model, load_checkpoint(path / "best.safetensors")[0], where=path)
    with torch.no_grad():
        ours, theirs = head(tokens), model.eval()(tokens)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected)


def test_other_methods_and_empty_splits_are_refused(runs, tiny_store, tmp_path):
    store = tiny_store(24, 6, 6)
    other = tmp_path / "linear"
    train(store, recipe=load_recipe("ave-small", ["method=linear", "train.epochs=1"]), out=other)
    with pytest.raises(
        UsageError, match=r"its method linear makes no tokens of single layers.*\n  next: .*method=molt"
    ):
        layer_token_facts(other)
    with pytest.raises(UsageError, match="there is no split 'tset'"):
        layer_token_facts(runs[0], split="tset")
