from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mettle_cache.devices import seeded
from mettle_cache.errors import RunError
from mettle_cache.pipelines.train.loggers.protocol import LoggedRun
from mettle_cache.pipelines.train.loggers.run_loggers import RunLoggers
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.run import Run, mix_seeds
from mettle_cache.pipelines.train.run_config import RunConfig, StoreReference
from mettle_cache.pipelines.train.run_folder import RunFolder, claim_run
from mettle_cache.pipelines.train.sample_loader import SampleLoader
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.tokens import FLOATS, LayerTokens, TokenBatch

CPU = torch.device("cpu")
RECIPE = load_recipe("ave-small", ["lcd.dim=16", "train.learning_rate=3e-3", "train.step_size=2"])


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(8, 2, 2)


def make(store, seed=0, recipe=RECIPE):
    return Run(bind_task(recipe, store), recipe.train, seed=seed, device=CPU)


def claimed(path):
    """A run's folder, as training finds it."""
    store = StoreReference(path="s.zarr", key_digest="key", dataset="ave", codec="int8")
    with claim_run(
        path, RunConfig(recipe=RECIPE.to_json(), seed=0, select_on="val", store=store), resume=True
    ) as folder:
        return folder


def batches(store, run, rows=range(8)):
    return SampleLoader(store, run.task.layers, device=CPU).batches(list(rows), 4)


def train(run, store, epochs, scores=()):
    for epoch in epochs:
        for index, batch in enumerate(batches(store, run)):
            run.step(batch, epoch=epoch, index=index)
        run.end_epoch({run.task.metric: scores[epoch]} if scores else {}, split="val")


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def test_the_seed_decides_the_first_weights_and_nothing_else_does(store):
    torch.manual_seed(1)
    first = make(store, seed=3)
    torch.manual_seed(2)
    assert torch.equal(weights(first), weights(make(store, seed=3)))
    assert not torch.equal(weights(first), weights(make(store, seed=4)))


def test_training_leaves_the_global_generator_alone(store):
    run = make(store)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make(store)
    for index, batch in enumerate(batches(store, run)):
        run.step(batch, epoch=0, index=index)
    assert torch.equal(torch.rand(1), expected)


def test_two_heads_on_one_pass_get_the_numbers_that_each_gets_alone(store):
    together = [make(store, seed=0), make(store, seed=1)]
    for index, batch in enumerate(batches(store, together[0])):
        for run in together:
            run.step(batch, epoch=0, index=index)
    for seed, run in enumerate(together):
        alone = make(store, seed=seed)
        for index, batch in enumerate(batches(store, alone)):
            alone.step(batch, epoch=0, index=index)
        assert torch.equal(weights(alone), weights(run))


def test_a_step_is_adam_on_the_sum_of_the_terms(store):
    recipe = load_recipe("ave-small", ["lcd.dim=16", "head.dropout=0", "train.learning_rate=0.01"])
    run = make(store, recipe=recipe)
    reference = make(store, recipe=recipe).model.train()
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01)
    for index, batch in enumerate(batches(store, run)):
        terms = run.step(batch, epoch=0, index=index)
        optimizer.zero_grad()
        expected = run.task.loss(reference, reference(batch.tokens.layers), run.task.targets(batch.rows))
        sum(expected.values()).backward()
        optimizer.step()
        assert terms == {name: pytest.approx(value.item(), rel=1e-6) for name, value in expected.items()}
    reference_weights = torch.cat([parameter.detach().flatten() for parameter in reference.parameters()])
    torch.testing.assert_close(weights(run), reference_weights, rtol=0, atol=1e-6)


def test_the_schedule_is_step_lr(store):
    run = make(store)
    rates = []
    for _ in range(5):
        rates.append(run.learning_rate)
        batch = next(batches(store, run, range(4)))
        run.step(batch, epoch=0, index=0)
        run.end_epoch({})
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3 * 0.35, 3e-3 * 0.35, 3e-3 * 0.35**2])


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(store, tmp_path):
    whole = make(store)
    train(whole, store, range(5))
    for epochs in (range(3), range(3, 5)):
        loggers = RunLoggers(LoggedRun(folder=tmp_path, name="a", group=""), None, pytest.fail)
        with make(store).record(claimed(tmp_path), store_digest="key", steps=2, loggers=loggers) as run:
            assert run.history.epochs == epochs.start
            train(run, store, epochs)
    assert torch.equal(weights(run), weights(whole))
    assert run.learning_rate == whole.learning_rate < 2e-3
    # the speed is 0 in both: nobody measured it
    assert run.history == whole.history
    steps = EventAccumulator(str(RunFolder(tmp_path).events)).Reload().Scalars("step/loss")
    assert [event.step for event in steps] == list(range(10))


def test_the_weights_of_the_best_epoch_are_kept_and_loaded(store, tmp_path):
    scores = [10.0, 30.0, 20.0]
    best = make(store)
    train(best, store, range(2), scores)
    folder = claimed(tmp_path)
    with make(store).record(folder, store_digest="key", steps=2) as run:
        train(run, store, range(3), scores)
    other = make(store, seed=9)
    assert other.load_best(folder) == 2
    assert torch.equal(weights(other), weights(best))
    assert not torch.equal(weights(other), weights(run))
    with pytest.raises(RunError, match="has not finished an epoch"):
        other.load_best(RunFolder(tmp_path / "nothing"))


def test_dropout_depends_on_epoch_and_step():
    def draw(*numbers):
        with seeded(mix_seeds(*numbers), CPU):
            return torch.rand(1).item()

    assert len({draw(seed, epoch, step) for seed in range(3) for epoch in range(3) for step in range(3)}) == 27
    # numpy's SeedSequence alone cannot tell these apart
    assert draw(1) != draw(1, 0)


def test_a_step_draws_dropout_of_its_epoch_and_number(store):
    def losses(epoch, index):
        run = make(store, seed=2)
        return run.step(next(batches(store, run)), epoch=epoch, index=index)

    assert losses(1, 2) == losses(1, 2)
    assert len({tuple(losses(epoch, index).values()) for epoch in range(2) for index in range(2)}) == 4


def test_an_epochs_loss_is_the_mean_over_its_samples_and_its_own(store):
    run = make(store)
    for epoch in range(2):
        steps = []
        # the last batch is smaller
        for index, batch in enumerate(batches(store, run, range(7))):
            steps.append((len(batch.rows), run.step(batch, epoch=epoch, index=index)))
        run.end_epoch({})
        assert [count for count, _ in steps] == [4, 3]
        row = run.history.rows[-1]
        for name in steps[0][1]:
            expected = sum(count * terms[name] for count, terms in steps) / 7
            assert row[f"loss_{name}"] == pytest.approx(expected, rel=1e-6)
        assert row["loss"] == pytest.approx(sum(row[f"loss_{name}"] for name in steps[0][1]))


def test_prediction_has_no_dropout(store):
    run = make(store)
    batch = next(batches(store, run))
    assert (run.predict(batch)["labels"] == run.predict(batch)["labels"]).all()
    assert not run.model.training


def test_a_loss_that_is_not_finite_names_epoch_step_and_terms(store):
    run = make(store)
    batch = next(batches(store, run))
    layers = batch.tokens.layers.items()
    nan = TokenBatch(
        {name: LayerTokens(torch.full_like(layer.floats(), float("nan")), FLOATS) for name, layer in layers},
        batch.tokens.clips,
    )
    broken = replace(batch, tokens=nan)
    terms = run.step(broken, epoch=2, index=1)
    message = r"epoch 3, step 2: the loss is not finite \(event nan, .*\n.*learning_rate"
    # found when the next step is under way, and at the epoch's end at the latest
    with pytest.raises(RunError, match=message):
        run.step(batch, epoch=2, index=2)
    with pytest.raises(RunError, match=message):
        terms.check()
    other = make(store)
    other.step(broken, epoch=2, index=1)
    with pytest.raises(RunError, match=message):
        other.end_epoch({})
    assert other.history.epochs == 0


def test_weights_that_are_not_finite_end_the_run_though_every_loss_was(store):
    run = make(store)
    run.step(next(batches(store, run)), epoch=0, index=0)
    next(run.model.parameters()).data[0] = float("inf")
    with pytest.raises(RunError, match=r"epoch 1: weights are not finite any more\n.*learning_rate"):
        run.end_epoch({})
    assert run.history.epochs == 0


def test_one_term_that_is_not_finite_is_enough(store, monkeypatch):
    run = make(store)
    loss = type(run.task).loss
    monkeypatch.setattr(run.task, "loss", lambda *given: {**loss(run.task, *given), "far": torch.tensor(torch.inf)})
    run.step(next(batches(store, run)), epoch=0, index=0)
    with pytest.raises(RunError, match=r"the loss is not finite \(event \d.*, far inf\)"):
        run.settle()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_reaches_the_method(store, precision, tmp_path):
    recipe = load_recipe("ave-small", ["lcd.dim=16", f"train.precision={precision}", "method=linear"])
    run = make(store, recipe=recipe)
    seen = []
    run.model.visual.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = next(batches(store, run))
    run.step(batch, epoch=0, index=0)
    assert seen == [getattr(torch, precision)]
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}


def test_the_loss_of_a_batch_is_without_dropout(store):
    recipe = load_recipe("ave-small", ["lcd.dim=16", "head.dropout=0.5"])
    run = make(store, recipe=recipe)
    (batch, *_) = batches(store, run)
    loss = run.loss(batch)
    assert loss == run.loss(batch)
    outputs = run.outputs(batch)
    assert not any(tensor.requires_grad for tensor in outputs.values())
    terms = run.task.loss(run.model, outputs, run.task.targets(batch.rows))
    assert loss == pytest.approx(float(sum(terms.values())))
    # and what it learns with dropout is something else
    assert sum(run.step(batch, epoch=0, index=0).values()) != pytest.approx(loss)
