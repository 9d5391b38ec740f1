"""Memory that is free, and what is saved for a backward pass."""

import torch

from mettle_cache.pipelines.memory import available_memory, counting_saved


def test_some_memory_is_available():
    assert available_memory(torch.device("cpu")) > 0


def test_what_is_kept_is_counted_once_and_what_was_given_is_not():
    x, weight = torch.randn(100), torch.randn(100, requires_grad=True)
    with counting_saved([x, weight]) as saved:
        # multiplication keeps x and the weight, which were given; exp keeps its result, of 100 floats
        y = (x * weight).exp()
        # so does this one, and it keeps y once more
        z = (y * y).sum()
    z.backward()
    assert saved.nbytes == 400


def test_views_of_one_storage_are_one_piece():
    weight = torch.randn(10, 10, requires_grad=True)
    x = torch.randn(10, 10)
    base = x.clone()
    with counting_saved([weight]) as saved:
        ((base[:5] @ weight).sum() + (base[5:] @ weight).sum()).backward()
    assert saved.nbytes == base.nbytes


def test_nothing_is_counted_without_a_graph():
    with counting_saved([]) as saved:
        torch.randn(10).exp()
    assert saved.nbytes == 0
