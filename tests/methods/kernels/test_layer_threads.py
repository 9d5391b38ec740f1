"""Layers side by side, against one after the other: the same bits, the same graph to the outside."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mettle_cache.methods.kernels import layer_threads
from mettle_cache.methods.kernels.layer_threads import LayerWork, add_up_layers, run_in_threads
from mettle_cache.methods.lcd import LCD
from tests.methods.stock import lcd_options
from tests.methods.test_lcd import LAYERS, clip_tokens


@pytest.fixture(autouse=True)
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def build(**switches):
    torch.manual_seed(0)
    return LCD(LAYERS, lcd_options(meta_tokens=2, dim=24, **switches))


def run(module, tokens, threads=3):
    torch.set_num_threads(threads)
    output = module(tokens)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("form", ["float32", "int8", "int4"])
@pytest.mark.parametrize("steps", [1, 2])
def test_not_a_bit_differs_from_one_layer_after_the_other(form, steps):
    tokens = clip_tokens(form)
    expected, wanted = run(build(steps=steps), tokens, threads=1)
    for threads in (2, 3):
        output, gradients = run(build(steps=steps), tokens, threads)
        assert torch.equal(output, expected)
        assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def works_of(*modules):
    return [LayerWork(lambda m=module: m(torch.ones(2, 3)), tuple(module.parameters()), cost=1) for module in modules]


def test_each_worker_keeps_its_number_of_threads_and_others_keep_theirs():
    layer_threads._layer_executor.cache_clear()
    found, both = [], threading.Barrier(2)

    def look():
        both.wait()
        found.append(torch.get_num_threads())
        return torch.ones(1)

    for threads in (2, 3, 2):
        torch.set_num_threads(threads)
        add_up_layers([LayerWork(look, (), 1)] * 2, side_by_side=True)
        elsewhere = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
        assert elsewhere == threads
    assert found == [1] * 6
    torch.set_num_threads(3)


def test_layers_run_on_threads_of_their_own_and_the_most_expensive_first(monkeypatch):
    order = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    works = [LayerWork(lambda k=cost: order.append(k) or torch.ones(1), (), cost) for cost in (1, 5, 3)]
    assert add_up_layers(works, side_by_side=True).item() == 3
    assert set(order) == {1, 3, 5}
    assert order[-1] == 1
    monkeypatch.setattr(layer_threads, "_layer_executor", None)
    assert add_up_layers(works, side_by_side=False).item() == 3
    assert add_up_layers(works[:1], side_by_side=True).item() == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_there_is_no_graph(mode):
    tokens, module = clip_tokens("int8"), build()
    with mode():
        output = module(tokens)
        assert output.is_inference() == torch.is_inference_mode_enabled()
    assert not output.requires_grad
    torch.set_num_threads(1)
    assert torch.equal(output, module(tokens))


def test_frozen_and_unused_parameters_get_no_gradient():
    used, frozen = nn.Linear(3, 4), nn.Linear(3, 4).requires_grad_(False)
    half, unused = nn.Linear(3, 4), nn.Parameter(torch.ones(1))
    half.bias.requires_grad_(False)
    works = works_of(used, frozen, half)
    works[0] = LayerWork(works[0].run, (*works[0].parameters, unused), 1)
    output = add_up_layers(works, side_by_side=True)
    assert torch.equal(output, used(torch.ones(2, 3)) + frozen(torch.ones(2, 3)) + half(torch.ones(2, 3)))
    output.sum().backward()
    assert torch.equal(used.weight.grad, torch.full((4, 3), 2.0))
    assert torch.equal(half.weight.grad, torch.full((4, 3), 2.0))
    assert frozen.weight.grad is half.bias.grad is unused.grad is None
    assert not add_up_layers(works_of(frozen, frozen), side_by_side=True).requires_grad


def test_what_layers_keep_is_kept_in_the_callers_graph():
    """Whoever counts, moves or checks saved tensors sees those of the layers too."""
    tokens = clip_tokens("int8")

    def kept_by(module):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            output = module(tokens)
        output.sum().backward()
        return sorted((tuple(t.shape), str(t.dtype)) for t in kept)

    side_by_side = kept_by(build())
    torch.set_num_threads(1)
    assert side_by_side == kept_by(build()) != []


def test_gradients_of_chosen_parameters():
    module, tokens = build(), clip_tokens("int8")
    wanted = [module.projections["s1b01"].weight]
    ours = torch.autograd.grad(module(tokens).sum(), wanted)
    torch.set_num_threads(1)
    theirs = torch.autograd.grad(module(tokens).sum(), wanted)
    assert torch.equal(ours[0], theirs[0])


def test_nothing_stays_behind_without_a_backward_pass():
    module, tokens = build(), clip_tokens("int8")
    codes = weakref.ref(tokens[LAYERS[0].name].codes)
    output = module(tokens)
    del output, tokens
    gc.collect()
    assert codes() is None


def test_a_layer_that_fails_is_heard_of_when_all_are_done():
    done = []

    def fail():
        raise ValueError("layer 2")

    works = [LayerWork(lambda: done.append(1) or torch.ones(1), (), 0.5), LayerWork(fail, (), 1)]
    with pytest.raises(ValueError, match="layer 2"):
        add_up_layers(works, side_by_side=True)
    assert done == [1]


def test_what_one_raised_is_raised_when_all_have_ended():
    ended, both = [], threading.Barrier(2)

    def take():
        if both.wait() == 0:
            raise ValueError("part 3")
        time.sleep(0.1)
        ended.append(1)

    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(ValueError, match="part 3"):
            run_in_threads(take, executor, 2)
        assert ended == [1]
