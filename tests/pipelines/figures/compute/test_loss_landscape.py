"""Landscapes against closed forms, and against a run's own loss."""

import numpy as np
import pytest
import torch
from torch import nn

from mettle_cache.errors import OptionsError
from mettle_cache.pipelines.figures.compute.loss_landscape import (
    LandscapeOptions,
    filter_normalised_direction,
    run_landscape,
    scan_losses,
)
from mettle_cache.pipelines.figures.trained import TrainedRun
from mettle_cache.pipelines.progress import Silent
from mettle_cache.tasks.protocol import auxiliary_terms

SMALL = LandscapeOptions(grid=5, radius=0.5, clips=6, seed=3)


def toy():
    generator = torch.Generator().manual_seed(7)
    model = nn.ParameterDict(
        {
            "weight": torch.randn(4, 3, generator=generator, dtype=torch.float64),
            "filters": torch.randn(2, 3, 2, generator=generator, dtype=torch.float64),
            "bias": torch.randn(4, generator=generator, dtype=torch.float64),
        }
    )
    return dict(model.named_parameters())


def test_a_quadratic_gives_its_closed_form():
    parameters = toy()
    trained = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    losses = scan_losses(lambda: sum(float(p.square().sum()) for p in parameters.values()), parameters, SMALL)
    generator = torch.Generator().manual_seed(SMALL.seed)
    one, two = (filter_normalised_direction(parameters, generator) for _ in range(2))

    def inner(a, b):
        return sum(float((a[name] * b[name]).sum()) for name in one)

    a, b = np.meshgrid(SMALL.steps, SMALL.steps, indexing="ij")
    constant = sum(float(w.square().sum()) for w in trained.values())
    expected = constant + 2 * a * inner(trained, one) + 2 * b * inner(trained, two)
    expected += a**2 * inner(one, one) + 2 * a * b * inner(one, two) + b**2 * inner(two, two)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, trained[name])


def test_directions_have_the_norms_of_the_filters_and_spare_vectors():
    parameters = toy()
    direction = filter_normalised_direction(parameters, torch.Generator().manual_seed(0))
    assert set(direction) == {"weight", "filters"}
    for name, tensor in direction.items():
        norms, own = tensor.flatten(1).norm(dim=1), parameters[name].flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, own.detach())
        assert not torch.allclose(tensor, parameters[name])


def test_weights_come_back_after_an_error_and_losses_that_explode_are_missing():
    parameters = toy()
    before = parameters["weight"].detach().clone()

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_losses(fail, parameters, SMALL)
    assert torch.equal(parameters["weight"], before)
    assert np.isnan(scan_losses(lambda: float("inf"), parameters, SMALL)).all()


def test_the_centre_is_the_runs_loss(trained_run, tiny_ave):
    trained = TrainedRun.load(trained_run, "lcd", store=tiny_ave)
    landscape = run_landscape(trained, SMALL, Silent())
    assert landscape.losses.shape == (5, 5)
    assert landscape.steps[2] == 0
    # the same samples by another way: the model on decoded floats would differ, so on the store's own batch
    task, model = trained.run.task, trained.run.model.eval()
    split = trained.split("train")
    rows = [split.rows[place] for place in np.unique(np.linspace(0, len(split) - 1, 6).astype(int))]
    clips = [tiny_ave.samples["clip"][row].as_py() for row in rows]
    with torch.no_grad():
        outputs = model(tiny_ave.read(clips).layers)
        terms = {**task.loss(model, outputs, task.targets(rows)), **auxiliary_terms(outputs)}
    assert landscape.centre == pytest.approx(float(sum(terms.values())), rel=1e-5)
    assert (landscape.losses != landscape.centre).sum() == 24
    again = run_landscape(trained, SMALL, Silent())
    np.testing.assert_array_equal(again.losses, landscape.losses)


def test_options():
    with pytest.raises(OptionsError, match="grid must be odd, so that the trained weights are one of its points"):
        LandscapeOptions(grid=4)
    assert list(LandscapeOptions(grid=3, radius=2.0).steps) == [-2, 0, 2]
