"""Runs to draw."""

import pytest

from mettle_cache.pipelines.train import load_recipe, train


@pytest.fixture(scope="session")
def tiny_ave(tiny_store):
    return tiny_store(12, 6, 9)


def train_run(store, out, *overrides):
    recipe = load_recipe("ave-small", ["train.epochs=2", "lcd.dim=16", "lcd.heads=4", *overrides])
    train(store, recipe=recipe, out=out, device="cpu")
    return out


@pytest.fixture(scope="session")
def trained_run(tiny_ave, tmp_path_factory):
    """A run of LCD with two meta-tokens on visual layers."""
    return train_run(tiny_ave, tmp_path_factory.mktemp("runs") / "lcd", "lcd.k_visual=2")


@pytest.fixture(scope="session")
def linear_run(tiny_ave, trained_run):
    """A linear probe's run beside it."""
    return train_run(tiny_ave, trained_run.parent / "linear", 'method="linear"', "linear.dim=16")
