"""Captured steps, with a stand-in for the capture itself: what is copied, compared, captured again and left alone."""

import pytest
import torch

from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleLoader, training_inputs
from mettle_cache.pipelines.train.step_graph import WARM_STEPS, StaticBatch
from mettle_cache.pipelines.train.task import bind_task
from tests.pipelines.train.test_host_reads import write_llp

CPU = torch.device("cpu")
EPOCHS = 4


class Recorder:
    """Keeps the function, as a graph keeps its kernels: on the tensors that it was captured on."""

    def __init__(self):
        self.captured = self.replayed = 0

    def __call__(self, step):
        self.captured += 1

        def replay():
            self.replayed += 1
            return step()

        return replay


@pytest.fixture(scope="module", params=["ave-small", "llp-small"])
def case(request, tiny_store, tmp_path_factory):
    """A store and a recipe; motion features are further inputs of the model."""
    small = ["lcd.heads=2", "lcd.dim=16", "train.step_size=2", f"train.epochs={EPOCHS}", "train.learning_rate=3e-3"]
    if request.param == "ave-small":
        return tiny_store(10, 2, 2), load_recipe(request.param, small)
    store = write_llp(tmp_path_factory.mktemp("llp") / "llp.zarr", 10)
    return store, load_recipe(request.param, [*small, "head.decoder=mgn"])


def train(case, static, device=CPU, **options):
    """Epochs of batches of 4, 4 and 2 samples; the run and its losses."""
    store, recipe = case
    notes = []
    run = Run(bind_task(recipe, store), recipe.train, seed=1, device=device, note=notes.append, **options)
    loader, rows, losses = SampleLoader.for_tasks(store, [run.task], device=device), list(range(10)), []
    for epoch in range(EPOCHS):
        inputs = training_inputs(run.task, rows, order_seed=0, epoch=epoch)
        for index, batch in enumerate(loader.batches(rows, 4, inputs)):
            held = static.hold(batch) if static else batch
            assert held.static == (static is not None and index < 2)
            losses.append({**run.step(held, epoch=epoch, index=index)})
        run.end_epoch({})
    return run, losses, notes


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def test_replayed_steps_are_the_steps_themselves(case):
    recorder = Recorder()
    plain, losses, _ = train(case, None)
    graphed, found, notes = train(case, StaticBatch(), capture=recorder)
    assert found == losses
    assert torch.equal(weights(graphed), weights(plain))
    # a graph holds the learning rate, which changes once; the first steps and those of the last batches are as they are
    assert recorder.captured == 2
    assert recorder.replayed == 2 * EPOCHS - WARM_STEPS
    assert notes == []


def test_heads_of_one_pass_replay_on_the_same_tensors(case):
    store, recipe = case
    static, rows = StaticBatch(), list(range(8))
    runs = [Run(bind_task(recipe, store), recipe.train, seed=n, device=CPU, capture=Recorder()) for n in range(2)]
    inputs = training_inputs(runs[0].task, rows, order_seed=0, epoch=0)
    places = set()
    for batch in SampleLoader.for_tasks(store, [runs[0].task], device=CPU).batches(rows, 4, inputs):
        held = static.hold(batch)
        assert held.tokens.nbytes == batch.tokens.nbytes
        for name, layer in batch.tokens.layers.items():
            assert torch.equal(held.tokens.layers[name].codes, layer.codes)
            assert torch.equal(held.tokens.layers[name].scale, layer.scale)
            assert held.tokens.layers[name].codes.data_ptr() != layer.codes.data_ptr()
        places.add(next(iter(held.tokens.layers.values())).codes.data_ptr())
    assert len(places) == 1


def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(case):
    def refuse(_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, losses, _ = train(case, None)
    graphed, found, notes = train(case, StaticBatch(), capture=refuse)
    assert found == losses
    assert torch.equal(weights(graphed), weights(plain))
    assert notes == ["steps are not captured as a graph: operation not permitted when stream is capturing"]


def test_a_graph_with_another_loss_than_the_step_ends_the_run(case):
    with pytest.raises(RunError, match=r"captured step gives the loss terms \[.*\n.*--no-graph"):
        train(case, StaticBatch(), capture=lambda step: lambda: step() + 0.01)


@pytest.mark.gpu
def test_a_captured_step_on_a_gpu_learns_what_the_step_itself_does(case):
    """The same dropout too: its seed and offset are inputs of the graph."""
    device = torch.device("cuda")
    _, losses, _ = train(case, None, device)
    _, found, notes = train(case, StaticBatch(), device)
    assert notes == []
    for ours, theirs in zip(found, losses, strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)
