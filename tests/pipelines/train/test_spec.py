import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.spec import RunSpec, check_shared, combine_variants, parse_seeds


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


def overrides(sets=(), variants=()):
    return [variant.overrides for variant in combine_variants(sets, variants)]


def test_every_combination_of_the_values():
    assert overrides(["a=1,2", "b=x", "c=3,4"]) == [
        ("b=x", "a=1", "c=3"),
        ("b=x", "a=1", "c=4"),
        ("b=x", "a=2", "c=3"),
        ("b=x", "a=2", "c=4"),
    ]


def test_variants_are_one_more_axis():
    assert overrides(["a=1,2"], ["", "b=1 c=2"]) == [("a=1",), ("a=2",), ("b=1", "c=2", "a=1"), ("b=1", "c=2", "a=2")]


def test_nothing_to_vary_is_the_recipe_as_it_is():
    (variant,) = combine_variants([], [])
    assert (variant.overrides, variant.text, variant.name) == ((), "recipe", "recipe")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=[1,2],[3,4]", ["[1,2]", "[3,4]"]),
        ("k=[1,[2,3]],4", ["[1,[2,3]]", "4"]),
        ("k='a,b',c", ["'a,b'", "c"]),
        ('k="a,]b",c', ['"a,]b"', "c"]),
        ("k= 1 , 2", ["1", "2"]),
        ("k=a=b,c", ["a=b", "c"]),
    ],
)
def test_commas_inside_brackets_and_quotes_belong_to_a_value(text, values):
    assert overrides([text]) == [(f"k={value}",) for value in values]


def test_variants_become_the_recipes_that_they_say():
    first, second = combine_variants(["lcd.k_visual=[1,2],2", "train.epochs=3"], ["layers='visual/s1,audio'"])
    recipes = [load_recipe("ave-small", list(variant.overrides)) for variant in (first, second)]
    assert [recipe.method_options.k_visual for recipe in recipes] == [(1, 2), 2]
    assert {(recipe.train.epochs, recipe.layers) for recipe in recipes} == {(3, "visual/s1,audio")}


def test_names_are_folders_that_need_no_quotes():
    names = [variant.name for variant in combine_variants(["lcd.k_visual=[1, 2],4"], ["layers=visual/s1 head.x='a b'"])]
    assert names == [
        "layers=visual-s1,head.x=ab,lcd.k_visual=1-2",
        "layers=visual-s1,head.x=ab,lcd.k_visual=4",
    ]


def test_long_names_stay_apart():
    names = [variant.name for variant in combine_variants([f"lcd.{'k' * 200}=1,2"], [])]
    assert len(set(names)) == 2
    assert all(len(name) < 140 for name in names)


@given(values=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True), axes=st.integers(1, 3))
def test_as_many_variants_as_combinations_each_with_a_name_of_its_own(values, axes):
    sets = [f"k{axis}={','.join(map(str, values))}" for axis in range(axes)]
    variants = combine_variants(sets, [])
    expected = [
        tuple(f"k{axis}={value}" for axis, value in enumerate(point))
        for point in itertools.product(values, repeat=axes)
    ]
    assert [variant.overrides for variant in variants] == expected
    assert len({variant.name for variant in variants}) == len(values) ** axes


@pytest.mark.parametrize(
    ("sets", "variants", "message"),
    [
        (["lcd.k_visual"], [], "--set lcd.k_visual: must be key=value"),
        (["=1,2"], [], "must be key=value"),
        ([], ["lcd.k_visual"], "'lcd.k_visual' in a variant must be key=value"),
        ([], ["a='1"], "--variant 'a='1': No closing quotation"),
        (["a=1,2", "a=3"], [], "two options of the sweep set a"),
        (["a=1,2"], ["a=3"], "two options of the sweep set a"),
        (["a=1,1"], [], "two variants would have the folder a=1"),
        (["a=[1,2],1-2"], [], "two variants would have the folder a=1-2"),
        ([], ["a=1", "a=1"], "two variants would have the folder a=1"),
    ],
)
def test_what_makes_no_sense_is_refused(sets, variants, message):
    with pytest.raises(UsageError, match=message.replace("'", ".")):
        combine_variants(sets, variants)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,1,2", [0, 1, 2]), ("0-4", [0, 1, 2, 3, 4]), ("7, 1-2", [7, 1, 2]), ("3-3", [3])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no seed"),
        ("a", "'a' is no seed"),
        ("-1", "'-1' is no seed"),
        ("1,,2", "'' is no seed"),
        ("4-2", "'4-2' is no range"),
        ("0-9999", "no range of up to 1000"),
        ("1,0-2", "a seed is there twice"),
    ],
)
def test_wrong_seeds_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_seeds(text)
