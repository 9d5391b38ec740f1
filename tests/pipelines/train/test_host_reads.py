"""A step waits for nothing: no number is read from the device, and nothing goes there that the host waits for.

On a CPU every read is counted, of Python and of PyTorch's operators. On the meta device, whose tensors hold no numbers,
a read would be an error, and a copy to the device shows itself.
"""

from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pytest
import torch

from mettle_cache.methods.kernels import klt, klt_rows, ops, reference
from mettle_cache.methods.registry import METHODS
from mettle_cache.pipelines.train import run as run_module
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, read_split, training_inputs
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store import StoreSpec, StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers
from mettle_cache.store.reading.device_copy import to_device
from mettle_cache.tasks.avs.task import AvsTask
from tests.host_reads import Calls, Operators
from tests.pipelines import test_llp
from tests.pipelines.test_klt_jobs import recoded
from tests.pipelines.tiny_avqa import write_tiny_avqa
from tests.pipelines.tiny_store import LAYERS, layer, write_tiny_store
from tests.pipelines.train import test_kept_companions

META, CPU = torch.device("meta"), torch.device("cpu")
CASES = [
    *(("ave", "ave-small", [f"method={name}"]) for name in METHODS.names()),
    ("ave", "ave-small", ["head.decoder=psp29"]),
    *(("klt", "ave-small", [f"method={name}"]) for name in ("lcd", "linear")),
    *(("llp", "llp-small", [f"head.decoder={name}"]) for name in ("mmpyr", "han", "mgn")),
    ("avs", "avs-s4-small", ["head.width=8", "head.tpavi=true"]),
    *(("avqa", "music-avqa-small", ["head.negative_videos=4", f"head.packed={one}"]) for one in ("true", "false")),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=[" ".join([name, *switches]) for name, _, switches in CASES])


def write(path, dataset, samples, layers, segments, vocabulary):
    """A store of noise."""
    clips = tuple(samples["clip"].to_pylist())
    facts = {"dataset": dataset, "segments": segments, "layers": layers, "codec": "int8", "vocabulary": vocabulary}
    with StoreWriter.create_or_resume(path, StoreSpec(**facts, clips=clips, samples=samples)) as writer:
        for number in range(len(clips)):
            tokens = {one.name: torch.randn(segments, one.tokens, one.width) for one in layers}
            writer.write_clip(number, encode_layers(tokens, get_codec("int8")), source=f"{number:032x}")
        writer.finish()
    return TokenStore.open(path)


def write_llp(path, clips=4):
    samples = test_llp.make_samples([test_llp.make_video(number, "train") for number in range(clips)], motion=True)
    vocabulary = {"categories": test_llp.CATEGORIES, "dense_annotations": test_llp.SOURCES}
    return write(path, "llp", samples, LAYERS, 10, vocabulary)


def write_avs(path):
    visual = [layer("visual", stage + 1, 1, (8 >> stage, 8 >> stage), 16) for stage in range(4)]
    clips, mask = [f"video{number}" for number in range(4)], np.packbits(np.eye(224, dtype=bool)).tobytes()
    rows = [{"row": n, "clip": one, "split": "train", "clips": [one], "masks": [mask]} for n, one in enumerate(clips)]
    samples = pa.Table.from_pylist(rows, schema=AvsTask.sample_schema)
    return write(path, "avs-s4", samples, (*visual, layer("audio", 1, 1, (2, 2), 16)), 1, {})


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host-reads")
    ave = test_kept_companions.write_store(folder / "ave.zarr")
    avqa = write_tiny_avqa(folder / "avqa.zarr", 4, 2, 2)
    klt = recoded(write_tiny_store(folder / "float16.zarr", 4, 2, 2, codec="float16"), "klt1.5", folder / "klt.zarr")
    llp, avs = write_llp(folder / "llp.zarr"), write_avs(folder / "avs.zarr")
    return {"ave": ave, "klt": klt, "llp": llp, "avs": avs, "avqa": avqa}


@pytest.fixture(autouse=True)
def kernels_of_any_device(monkeypatch):
    """What a device takes that nothing is compiled for: the compiled loops of a CPU work on its memory."""
    monkeypatch.setattr(ops, "IMPLEMENTATIONS", (klt, reference))
    monkeypatch.setattr(klt, "ROW_POOLINGS", (klt_rows,))


def prepare(stores, case, device):
    """A run, and a batch to step on."""
    name, recipe, switches = case
    store, method = stores[name], next((text[7:] for text in switches if text.startswith("method=")), "lcd")
    sizes = {"direct": [], "linear": [], "molt": ["molt.dim=16", "molt.late=2"]}.get(method, [f"{method}.dim=16"])
    recipe = load_recipe(recipe, [*(["lcd.heads=2"] if method == "lcd" else []), *sizes, *switches])
    run = Run(bind_task(recipe, store), recipe.train, seed=0, device=device)
    rows = read_split(store, "train").rows
    loader = SampleLoader.for_tasks(store, [run.task], device=device, threads=1)
    (batch,) = loader.batches(rows[:4], 4, training_inputs(run.task, rows, order_seed=0, epoch=0))
    return run, batch


@EVERY
def test_a_step_reads_no_number_but_those_of_the_step_before(stores, case):
    run, batch = prepare(stores, case, CPU)
    run.step(batch, epoch=0, index=0)
    with Calls() as calls, Operators() as operators:
        run.step(batch, epoch=0, index=1)
    assert operators.found == {}
    # the loss of the step before, in one piece
    assert {**+calls.counts} == {"tolist": 1}


@EVERY
def test_nothing_goes_to_the_device_but_targets_and_inputs(stores, case, monkeypatch):
    run, batch = prepare(stores, case, META)
    sent = []
    monkeypatch.setattr(run_module, "to_device", lambda *given: sent.append(given) or to_device(*given))
    # neither knows the device; the CPU's test has both
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    with Operators() as operators:
        terms = run.step(batch, epoch=0, index=0)
    assert len(terms) > 0
    assert operators.found == {"copy to meta": len(sent)}
    assert len(sent) == 1 + len(batch.inputs.tensors)


def test_reads_and_copies_are_counted():
    with Calls() as calls, Operators() as operators:
        x = torch.ones(3)
        x[x > 0].sum().item()
        x.to(META)
        if x.sum():
            x.tolist()
    assert {"item", "tolist", "__bool__"} <= {**+calls.counts}.keys()
    assert operators.found["_local_scalar_dense"] == 2
    assert operators.found["nonzero"] == 1
    assert operators.found["copy to meta"] == 1
