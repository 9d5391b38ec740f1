"""Tensors that travel together come out as they were; what only CUDA does (streams, page-locked memory) is not run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mettle_cache.store.reading.device_copy import HostTensors, pack, unpack

DTYPES = (torch.uint8, torch.int8, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.float64)


@st.composite
def tensors(draw):
    """A few tensors of any types and shapes, some of them empty, scalar or strided."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    found = []
    for _ in range(draw(st.integers(0, 6))):
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        dtype = draw(st.sampled_from(DTYPES))
        x = torch.randint(0, 100, shape, generator=random).to(dtype)
        found.append(x.mT if x.ndim >= 2 and draw(st.booleans()) else x)
    return found


@given(given=tensors())
@settings(max_examples=200, deadline=None)
def test_tensors_come_out_of_a_packed_copy_as_they_went_in(given):
    packed = pack(given)
    assert (packed.dtype, packed.ndim) == (torch.uint8, 1)
    found = unpack(packed, given)
    assert [(x.dtype, x.shape) for x in found] == [(x.dtype, x.shape) for x in given]
    assert all(torch.equal(one, other) for one, other in zip(found, given, strict=True))


@given(given=tensors())
@settings(max_examples=50, deadline=None)
def test_host_tensors_are_one_memory(given):
    found = HostTensors(given).wait()
    assert all(torch.equal(one, other) for one, other in zip(found, given, strict=True))
    assert len({x.untyped_storage().data_ptr() for x in found}) <= 1


def test_every_bit_pattern_travels():
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    odd, halves = HostTensors([torch.ones(3, dtype=torch.int8), x.view(torch.float16)]).wait()
    assert torch.equal(halves.view(torch.int16), x)
    assert odd.tolist() == [1, 1, 1]


@pytest.mark.gpu
def test_tensors_arrive_from_a_gpu_in_page_locked_memory_while_it_works_on():
    given = [torch.randn(1000, 1000, device="cuda"), torch.arange(7, dtype=torch.uint8, device="cuda")]
    expected = [x.cpu() for x in given]
    copy = HostTensors(given)
    for x in given:
        x.zero_()
    found = copy.wait()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(x.is_pinned() for x in found)
