"""Recipes, overrides and sweeps that are made, or slipped, to hurt: a short message, soon, and little memory."""

import time
import tracemalloc

import pytest

from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.spec import combine_variants, parse_seeds

MINIMAL = 'task = "avel"\n'

FILES = {
    "deep-list": (MINIMAL + "x = " + "[" * 60_000, "nested too deeply"),
    "deep-lines": (MINIMAL + "x = [" + "\n[" * 30_000, "nested too deeply"),
    "deep-table": (MINIMAL + "x = " + "{a=" * 20_000, "nested too deeply"),
    "deep-key": (MINIMAL + ".".join("a" * 30_000) + " = 1", "more than 100 dots"),
    "deep-header": (MINIMAL + "[" + ".".join("a" * 30_000) + "]", "more than 100 dots"),
    "keys": (MINIMAL + "\n".join(f"k{number} = 1" for number in range(1000)), "and 980 more"),
    "long-key": (MINIMAL + "k" * 60_000 + " = 1", r"60,000 characters\): no such key"),
    "long-inner-key": (MINIMAL + "[train]\n" + "k" * 60_000 + " = 1", "no such key"),
    "digits": (MINIMAL + "[train]\nepochs = " + "9" * 5000, "this is not TOML: a number of thousands of digits"),
    "many-digits": (MINIMAL + "[train]\nepochs = " + "9" * 4000, r"train.epochs: .*\(4,000 characters\)"),
    "hex": (MINIMAL + "[train]\nepochs = 0x" + "f" * 5000, "recipe: a number of thousands of digits"),
    "hex-task": ("task = 0x" + "f" * 5000, "task: must be one of"),
    "task-list": ("task = []", "task: must be one of"),
    "twice": (MINIMAL + MINIMAL, "this is not TOML: Cannot overwrite a value"),
    "nul": (MINIMAL + "x = 1\0", "this is not TOML"),
    "method-list": (MINIMAL + "method = [1]", "method: Input should be a valid string"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_hurts_is_refused_soon_and_shortly(tmp_path, name):
    text, message = FILES[name]
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert time.process_time() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert len(str(caught.value)) < 6000


def test_a_byte_order_mark_is_not_in_the_way(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_recipe(path).task == "avel"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=1000000000", r"train.epochs: .* not 1000000000 \(from 1 to 10000\)"),
        ("lcd.dim=10000000000", r"lcd.dim: .* \(from 1 to 8192\)"),
        ("lcd.heads=100000", r"lcd.heads: .* \(from 1 to 256\)"),
        ("lcd.k_visual=[1,2,100000]", r"lcd.k_visual: .* \(from 1 to 1024\)"),
        (f"lcd.k_visual=[{','.join('1' * 65)}]", "lcd.k_visual: .* at most 64 items"),
        ("train.batch_size=100000", r"train.batch_size: .* \(from 1 to 10000\)"),
        ("train.learning_rate=inf", "train.learning_rate: Input should be a finite number"),
        ("train.learning_rate=1e31", "train.learning_rate: Input should be less than or equal to"),
        ("train.order_seed=-1", r"train.order_seed: .* \(from 0 to 9223372036854775808\)"),
        ("train.epochs=0x" + "f" * 4000, "recipe: a number of thousands of digits"),
        ("train.epochs=" + "[" * 4000, "nested too deeply"),
        ("x=" + "9" * 5000, "of up to 4,096 characters and 8 parts"),
        (".".join("a" * 9) + "=1", "of up to 4,096 characters and 8 parts"),
        ("train.epochs={" + ".".join("a" * 200) + "=1}", "more than 100 dots"),
    ],
)
def test_an_override_that_hurts_is_refused_shortly(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("ave-small", [override])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name",
    ["../../x", "a/b", "/etc", "..", ".", ".hidden", "a\\\\b", "", " ", "a\\u0000b", "a\\nb", "x" * 300, "\\u001b[31m"],
)
def test_a_name_that_is_no_folder_s_is_refused(tmp_path, name):
    path = tmp_path / "recipe.toml"
    path.write_text(f'{MINIMAL}name = "{name}"\n')
    with pytest.raises(ConfigError, match=r"name = .*: a run's folder is called so"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["my recipe", "käse-2", "a.b=c,d"])
def test_other_names_are_as_good_as_ever(tmp_path, name):
    path = tmp_path / f"{name}.toml"
    path.write_text(MINIMAL)
    assert load_recipe(path).name == name


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ".x:y", ":x.toml", "/dev/zero", "."])
def test_what_is_no_recipe_is_said_to_be_none(name):
    with pytest.raises(UsageError, match=r"no recipe called|is no path"):
        load_recipe(name)


def test_a_sweep_has_no_more_heads_than_can_be_meant():
    with pytest.raises(UsageError, match="10,000,000,000 variants, of up to 1,000 in one sweep"):
        combine_variants([f"k{number}={','.join('0123456789')}" for number in range(10)], [])
    with pytest.raises(UsageError, match="is no range of up to 1000 seeds"):
        parse_seeds("0-999,1000-1999")


@pytest.mark.parametrize("name", ["os:recipe.toml", "mettle_cache:", "mettle_cache.nowhere:recipe.toml"])
def test_a_module_without_recipes_is_named(name):
    with pytest.raises(UsageError, match=f"the package {name.partition(':')[0]} brings no recipe"):
        load_recipe(name)
