"""The state dict that is wanted, wherever in a checkpoint it lies."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mettle_cache.errors import WeightsError
from mettle_cache.statedict import explain_mismatch, read_state_dict

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.steps": torch.tensor(3), "b.bias": torch.ones(4)}


def under(prefix):
    return {f"{prefix}{key}": value for key, value in STATE.items()}


def read(content, path, wanted=tuple(STATE)):
    torch.save(content, path)
    weights = read_state_dict(path, wanted)
    assert set(weights.tensors) == set(STATE)
    assert all(torch.equal(weights.tensors[key], STATE[key]) for key in STATE)
    return weights


OPTIMISER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: s, ""),
        (lambda s: {"state_dict": s, "epoch": 3, "optimizer": OPTIMISER}, " (its 'state_dict')"),
        (lambda s: {"model": s, "optimizer": OPTIMISER}, " (its 'model')"),
        (lambda s: {"optimizer": OPTIMISER, "model_state_dict": s}, " (its 'model_state_dict')"),
        (lambda s: {"net": s}, " (its 'net')"),
        (lambda s: {"a name nobody thought of": s}, " (its 'a name nobody thought of')"),
        (lambda s: {"epoch": 1, "state": {"model": s}}, " (its 'state.model')"),
        (lambda s: {"optimizer": OPTIMISER, "module": s}, " (its 'module')"),
        (
            lambda s: {"model": s, "model_ema": s | {"b.bias": torch.zeros(4)}},
            " (its 'model', 'model_ema' would fit as well)",
        ),
        (
            lambda s: {"student": s | {"b.bias": torch.zeros(4)}, "teacher": s},
            " (its 'teacher', 'student' would fit as well)",
        ),
        (lambda s: {"model_ema": s, "model": {"tower.x": torch.zeros(2)}}, " (its 'model_ema')"),
    ],
)
def test_the_state_dict_is_found_where_it_lies(wrap, said, tmp_path):
    weights = read(wrap(STATE), tmp_path / "w.pth")
    assert weights.source == f"file {tmp_path / 'w.pth'}{said}"


PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "module.model.", "sed_model.", "any.thing.0.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_what_stands_before_every_name_comes_off(prefix, kind, tmp_path):
    path = tmp_path / "w.ckpt"
    if kind == "pickle":
        weights = read({"state_dict": under(prefix)}, path)
    else:
        save_file(under(prefix), path)
        weights = read_state_dict(path, STATE)
        assert set(weights.tensors) == set(STATE)
    if prefix != "_orig_mod.":  # it is taken out wherever it stands
        assert weights.prefix == prefix
        assert f"names without '{prefix}'" in weights.source


def test_a_wrapper_inside_the_names_comes_out(tmp_path):
    read({key.replace("a.", "a._orig_mod."): value for key, value in STATE.items()}, tmp_path / "w.pth")


def test_another_networks_tensors_are_left_out_and_counted(tmp_path):
    state = {"teacher": under("backbone.") | {"head.mlp.weight": torch.ones(2), "head.mlp.bias": torch.ones(2)}}
    weights = read(state, tmp_path / "w.pth")
    assert weights.source.endswith("(its 'teacher', names without 'backbone.', 2 other tensors left out)")


def test_strangers_beside_the_names_stay_for_the_network_to_refuse(tmp_path):
    torch.save(STATE | {"c.weight": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_state_dict(tmp_path / "w.pth", STATE).tensors) == {*STATE, "c.weight"}


@pytest.mark.parametrize("wanted", [(), ("other.weight",), ("weight", "x", "y", "z")])
@pytest.mark.parametrize("prefix", ["module.", "module.model.", ""])
def test_names_of_an_original_repository_lose_known_wrappers_alone(wanted, prefix, tmp_path):
    torch.save({"epoch": 2, "optimizer": {"x": torch.ones(1)}, "model": under(prefix)}, tmp_path / "w.pth")
    weights = read_state_dict(tmp_path / "w.pth", wanted)
    assert set(weights.tensors) == set(STATE)
    assert weights.prefix == prefix


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_become_float32_and_integers_stay(dtype, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}, path)
    weights = read_state_dict(path, STATE)
    assert weights.tensors["a.weight"].dtype == torch.float32
    assert weights.tensors["a.steps"].dtype == torch.int64


def test_a_count_beyond_float16_is_no_damage(tmp_path):
    torch.save(STATE | {"bn.num_batches_tracked": torch.tensor(torch.inf).half()}, tmp_path / "w.pth")
    assert "bn.num_batches_tracked" in read_state_dict(tmp_path / "w.pth", STATE).tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, "holds no tensors, but 'state_dict', 'epoch'"),
        ({}, "holds no tensors, but nothing"),
        ({"a": torch.tensor([0.0, torch.nan])}, "not finite numbers, first in 'a'"),
        ({"a": torch.tensor([0.0, torch.inf])}, "not finite numbers, first in 'a'"),
    ],
)
def test_what_holds_no_usable_weights_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "w.pth")


def test_a_checkpoint_nested_in_itself_ends(tmp_path):
    nested: dict = {"model": dict(STATE)}
    for _ in range(30):
        nested = {str(number): nested for number in range(30)}
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state_dict(_saved(nested, tmp_path / "w.pth"))


def _saved(content, path):
    torch.save(content, path)
    return path


def test_a_mismatch_names_a_few_keys():
    expected = {f"k{i}": torch.zeros(1) for i in range(5)} | {"w": torch.zeros(2, 2)}
    text = explain_mismatch(expected, {"w": torch.zeros(3), "other": torch.zeros(1)}, "weights file f")
    assert text == (
        "weights file f does not fit (5 missing: k0, k1, k2, ...; 1 unexpected: other; "
        "1 of another shape: w (3,) where (2, 2) is wanted)"
    )
