import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mettle_cache.cli.export import EPILOG, report_lines
from mettle_cache.errors import RunError, StoreMissingError, UsageError
from mettle_cache.methods.folded import FOLDED_FORMAT, load_folded
from mettle_cache.pipelines.evaluate.export import export_run, load_exported, load_exported_codec
from mettle_cache.pipelines.train.checkpoint import load_checkpoint
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from mettle_cache.tokens import FLOATS, LayerTokens
from tests.methods.stock import StockLCD
from tests.pipelines.train.rewritten import rewrite_best

FAST = ["lcd.dim=16", "train.learning_rate=3e-3", "train.epochs=2", "lcd.pretrained_branch=linear", "lcd.k_visual=2"]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 4, 4)


def train_to(store, out, *overrides):
    train(store, recipe=load_recipe("ave-small", [*FAST, *overrides]), out=out)
    return out


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    return train_to(store, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def exported(trained, store, tmp_path):
    return export_run(trained, store=store, out=tmp_path / "head.safetensors", repeats=1)


def trained_model(run, store):
    """The head as training left it, with ``nn.MultiheadAttention`` on decoded tokens: the oracle."""
    model = bind_task(load_recipe("ave-small", FAST), store).build_model()
    model.load_state_dict(load_checkpoint(run / "best.safetensors")[0])
    model.visual, model.audio = StockLCD(model.visual), StockLCD(model.audio)
    return model.eval()


@pytest.mark.parametrize("codec", ["float16", "int8", "int4"])
def test_outputs_are_the_trained_heads_on_every_codec(tiny_store, store, trained, exported, codec):
    head, oracle = load_exported(exported.out), trained_model(trained, store)
    layers = tiny_store(8, 4, 4, codec=codec).read([0, 3, 7]).layers
    decoded = {name: LayerTokens(tokens.floats(), FLOATS) for name, tokens in layers.items()}
    expected = oracle(layers)
    for tokens in (layers, decoded):
        outputs = head(tokens)
        assert set(outputs) == set(expected)
        for name, value in outputs.items():
            assert (value - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max()


def test_the_folded_parts_load_alone(store, trained, exported):
    modules, oracle = load_folded(exported.out), trained_model(trained, store)
    assert (
        {name: len(module.layers) for name, module in modules.items()} == exported.folded == {"visual": 3, "audio": 2}
    )
    layers = store.read([1]).layers
    for name, module in modules.items():
        expected = getattr(oracle, name)(layers)
        assert (module(layers) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_report_counts_what_is_there(store, trained, exported):
    with safe_open(exported.out, framework="pt") as opened:
        sizes = [opened.get_tensor(name).numel() for name in opened.keys()]  # noqa: SIM118
    buffers = sum(buffer.numel() for buffer in load_exported(exported.out).buffers())
    assert exported.parameters_after == sum(sizes) - buffers
    assert exported.parameters_before == sum(p.numel() for p in trained_model(trained, store).parameters())
    assert exported.nbytes == exported.out.stat().st_size
    assert 0 <= exported.difference < 1e-5
    assert exported.before.low <= exported.before.median <= exported.before.high
    assert json.loads(json.dumps(exported.to_json()))["after"]["median"] > 0


def test_the_file_says_what_it_came_from(store, trained, exported):
    assert load_exported_codec(exported.out) is None
    with safe_open(exported.out, framework="pt") as opened:
        table = json.loads(opened.metadata()[FOLDED_FORMAT])
    assert table["store"] == store.key_digest
    assert table["vocabulary"] == {"categories": ["Bark", "Flute", "Clock"]}
    assert table["recipe"]["lcd"]["k_visual"] == 2


def test_by_default_it_lies_in_the_run(store, tmp_path):
    run = train_to(store, tmp_path / "run")
    assert export_run(run, repeats=1).out == run / "folded.safetensors"
    # the run is as good as before
    train(store, recipe=load_recipe("ave-small", FAST), out=run, resume=True)


def test_exports_of_one_run_have_the_same_bytes(store, trained, tmp_path):
    outs = [export_run(trained, store=store, out=tmp_path / name, repeats=1).out for name in "ab"]
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize(
    ("steps", "folded"),
    [(["lcd.steps_audio=2"], {"visual": 3}), (["lcd.steps_visual=2", "lcd.steps_audio=2"], {})],
)
def test_an_lcd_that_does_not_fold_is_kept_as_it_was_trained_with_the_reason(store, tmp_path, steps, folded):
    run = train_to(store, tmp_path / "run", *steps)
    report = export_run(run, store=store, repeats=1)
    assert report.folded == folded
    assert set(report.kept) == {"visual", "audio"} - set(folded)
    assert report.kept["audio"].startswith("layer audio/s1b01: LCD with R = 2 cannot be folded")
    lines = report_lines(report)
    assert sum(line.startswith("kept ") for line in lines) == len(report.kept)
    assert ("folded     nothing; the file holds the head as it was trained" in lines) == (not folded)
    trained = bind_task(load_recipe("ave-small", [*FAST, *steps]), store).build_model()
    trained.load_state_dict(load_checkpoint(run / "best.safetensors")[0])
    tokens = store.read([0, 1]).layers
    expected, exported = trained.eval()(tokens), load_exported(str(report.out))(tokens)
    for name, value in expected.items():
        assert (exported[name] - value).abs().max() <= 1e-5 * value.abs().max()


def test_an_export_writes_over_no_file_of_another_kind(store, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "best.safetensors").read_bytes()
    (run / "last.safetensors").unlink()
    for name in ("best", "last"):
        with pytest.raises(UsageError, match=rf"{name}.safetensors is the place of a file of the run"):
            export_run(run, store=store, out=run / f"{name}.safetensors", repeats=1)
    assert (run / "best.safetensors").read_bytes() == before
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(UsageError, match=r"mine.txt is there already, and is no exported head"):
        export_run(run, store=store, out=tmp_path / "mine.txt", repeats=1)


def test_the_example_of_the_help_runs_as_it_stands(store, trained, tmp_path, monkeypatch):
    export_run(trained, store=store, out=tmp_path / "heads" / "ave.safetensors", repeats=1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ave-swinv2_l-htsat.zarr").symlink_to(store.path)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EPILOG.split("in Python:")[1].replace("\b", ""), names)
    assert names["outputs"].keys() == load_exported("heads/ave.safetensors")(store.read([0]).layers).keys()


def test_a_head_of_another_method_is_written_as_it_is(store, tmp_path):
    run = train_to(store, tmp_path / "run", "method=linear")
    report = export_run(run, store=store, repeats=1)
    assert (report.folded, report.difference) == ({}, 0.0)
    assert report.parameters_after == report.parameters_before
    trained = bind_task(load_recipe("ave-small", [*FAST, "method=linear"]), store).build_model()
    trained.load_state_dict(load_checkpoint(run / "best.safetensors")[0])
    tokens = store.read([0, 1]).layers
    expected, exported = trained.eval()(tokens), load_exported(report.out)(tokens)
    assert expected.keys() == exported.keys()
    assert all(torch.equal(exported[name], value) for name, value in expected.items())


def test_a_head_that_rounding_would_change_is_not_written(store, tmp_path):
    """Value biases of a million that the output biases cancel: the trained head loses its digits, the folded not."""
    run = train_to(store, tmp_path / "run")

    def make_extreme(tensors):
        for name in [name for name in tensors if name.endswith("attention.in_proj_bias")]:
            width = len(tensors[name]) // 3
            tensors[name][2 * width :] = 1e6
            out = name.replace("in_proj_bias", "out_proj")
            tensors[f"{out}.bias"] = -(tensors[f"{out}.weight"].double().sum(1) * 1e6).float()

    rewrite_best(run, make_extreme)
    with pytest.raises(RunError, match="too extreme for single precision"):
        export_run(run, store=store)
    assert not (run / "folded.safetensors").exists()


def test_places_that_are_wrong(store, trained, tmp_path, tiny_store):
    with pytest.raises(UsageError, match="the exported head's place is a folder"):
        export_run(trained, store=store, out=tmp_path)
    with pytest.raises(StoreMissingError, match="its store is not at"):
        export_run(trained, store=tmp_path / "gone.zarr")
    with pytest.raises(RunError, match=r"trained from a store with key \w+; .* has"):
        export_run(trained, store=tiny_store(8, 4, 4, key={"weights": "other"}))
    with pytest.raises(RunError, match=r"there is no exported head\n  next: write it with: mettle export RUN"):
        load_exported(tmp_path / "nothing.safetensors")


def test_other_and_damaged_files_are_refused(trained, exported, tmp_path):
    with pytest.raises(RunError, match="not an exported head of format mettle-folded-1"):
        load_exported(trained / "best.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(exported.out.read_bytes()[:-100])
    with pytest.raises(RunError, match="the exported head is damaged"):
        load_exported(cut)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.999])
def test_one_bit_in_an_exported_head_is_noticed(exported, tmp_path, place):
    data = bytearray(exported.out.read_bytes())
    data[int(place * len(data))] ^= 4
    (tmp_path / "flipped.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"flipped\.safetensors: the exported head is damaged"):
        load_exported(tmp_path / "flipped.safetensors")


def rewritten(path, out, change):
    """The exported file with another description or other tensors."""
    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        table = json.loads(opened.metadata()[FOLDED_FORMAT])
    # as earlier versions wrote it: what the digest finds first is another test
    del table["digest"]
    change(table, tensors)
    save_file(tensors, out, metadata={FOLDED_FORMAT: json.dumps(table)})
    return out


def huge(table, tensors):
    table["folded"]["visual"]["layers"][0]["queries"] = 10**15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table, tensors: table.pop("folded"), "description of the folded layers is damaged"),
        (lambda table, tensors: table["folded"]["visual"].update(dim="wide"), "of the folded layers is damaged"),
        (lambda table, tensors: table["folded"]["visual"]["layers"][0].pop("layer"), "folded layers is damaged"),
        (huge, "the tensors of visual are not those of its description"),
        (lambda table, tensors: tensors.pop("visual.bias"), "the tensors of visual are not those"),
        (lambda table, tensors: tensors.pop("audio.folded.0.queries"), "the tensors of audio are not those"),
        (lambda table, tensors: tensors.update(more=torch.zeros(1)), "the weights are not those of .* model: more"),
        (lambda table, tensors: table.update(recipe={"task": "none"}), "description of the head is damaged"),
        (lambda table, tensors: table.update(vocabulary=[]), "description of the head is damaged"),
        (lambda table, tensors: table.update(layers=3), "description of the head is damaged"),
    ],
)
def test_forged_descriptions_are_refused(exported, tmp_path, change, message):
    forged = rewritten(exported.out, tmp_path / "forged.safetensors", change)
    with pytest.raises(RunError, match=message):
        load_exported(forged)


def test_the_store_is_not_needed_afterwards(exported, store, trained):
    tokens = {
        name: LayerTokens(layer.floats(), FLOATS)
        for name, layer in TokenStore.open(store.path).read([2]).layers.items()
    }
    (first, second) = (load_exported(exported.out)(tokens) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
