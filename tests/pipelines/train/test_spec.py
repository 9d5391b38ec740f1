from pathlib import Path

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.spec import RunSpec, check_shared


def spec(name, *overrides, seed=0):
    return RunSpec(recipe=load_recipe("ave-small", overrides), seed=seed, folder=Path("runs"), name=name)


def test_a_head_without_a_name_is_trained_in_the_folder_itself():
    assert spec("").out == Path("runs")
    assert spec("a/seed-1").out == Path("runs/a/seed-1")


def test_whatever_does_not_decide_a_batch_may_differ():
    check_shared(
        [
            spec("a"),
            spec("b", "train.epochs=3", "train.learning_rate=1e-5", "lcd.k_visual=2", "layers=stages"),
            spec("c", "method=linear", "head.decoder=psp29", seed=4),
        ]
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.batch_size=4",
            "the same train.batch_size: it is 8 in 'a' and 4 in 'c'\n  next: train the heads of each",
        ),
        ("train.order_seed=1", "the same train.order_seed: it is 0 in 'a' and 1 in 'c'"),
    ],
)
def test_what_decides_a_batch_must_be_common(override, message):
    with pytest.raises(UsageError, match=message):
        check_shared([spec("a"), spec("b"), spec("c", override)])


def test_two_heads_in_one_folder_are_refused():
    with pytest.raises(UsageError, match="two heads would be trained in runs/a\n"):
        check_shared([spec("a"), spec("b"), spec("a", seed=1)])


def test_no_heads_are_refused():
    with pytest.raises(UsageError, match="no head to train"):
        check_shared([])
