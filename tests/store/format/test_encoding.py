"""The codecs against their specification: bounds, determinism, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mettle_cache.errors import StoreError
from mettle_cache.store.format.codecs import encode_layers, get_codec
from tests.store.tiny import CODECS

AFFINE = ("int8", "int4")
LAYER = "visual/s1b01"
# what float32 arithmetic adds to the bound, in codes (encoding.py)
EPSILON = 1e-3


def encode(codec, x):
    return encode_layers({LAYER: x}, codec)[LAYER]


def frames(limit: float) -> st.SearchStrategy[torch.Tensor]:
    """Frames ``[T, N, D]`` whose channels have offsets and ranges of very different sizes."""
    shapes = st.tuples(st.integers(1, 2), st.integers(1, 9), st.sampled_from([2, 4, 6]))
    numbers = st.floats(-limit, limit, width=32) | st.floats(-1, 1, width=32) | st.sampled_from([0.0, -0.0, 1e-40, 6e4])

    @st.composite
    def build(draw: st.DrawFn) -> torch.Tensor:
        shape = draw(shapes)
        values = draw(npst.arrays(np.float32, shape, elements=numbers))
        offset = draw(npst.arrays(np.float32, shape[-1], elements=st.floats(-limit / 4, limit / 4, width=32)))
        spread = draw(st.sampled_from([0.0, 1e-30, 1e-6, 1e-3, 0.5]))
        return torch.from_numpy(np.clip(values * np.float32(spread) + offset, -limit, limit).astype(np.float32))

    return build()


def error_bound(tokens, codec):
    """``scale * max(1/2, ulp(zero)/2)`` and the slack, as encoding.py proves it, twice for int4; ``[T, D]`` float64."""
    most = np.maximum(0.5, half_ulp(tokens.zero)) * (2 if codec.keeps_mean else 1)
    return tokens.scale.numpy().astype(np.float64) * (most + EPSILON)


def half_ulp(zero):
    """Of float16 zeros; of the interval above where a zero is a power of two."""
    return np.spacing(np.abs(zero.numpy())).astype(np.float64) / 2


@pytest.mark.parametrize("name", AFFINE)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_error_of_the_affine_codecs_is_bounded(name, data):
    codec = get_codec(name)
    x = data.draw(frames(min(codec.limit, 6e4)))
    tokens = encode(codec, x)
    decoded = tokens.floats(torch.float64).numpy()
    assert np.isfinite(tokens.scale.numpy()).all()
    assert (tokens.scale.numpy() > 0).all()
    assert (np.abs(tokens.zero.numpy()) <= 2048).all()
    error = np.abs(x.numpy().astype(np.float64) - decoded).max(-2)
    assert (error <= error_bound(tokens, codec)).all()


@given(x=frames(6e4))
@settings(max_examples=150, deadline=None)
def test_int4_keeps_the_mean_of_every_frame_up_to_the_rounding_of_the_zero(x):
    tokens = encode(get_codec("int4"), x)
    error = (x.double().mean(-2) - tokens.floats(torch.float64).mean(-2)).abs().numpy()
    assert (error <= tokens.scale.numpy().astype(np.float64) * (half_ulp(tokens.zero) + EPSILON)).all()


def test_int4_keeps_means_better_than_its_first_version():
    x = torch.randn(4, 144, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 30, 64) + 2
    errors = [
        (encode(codec, x).floats(torch.float64) - x).mean(-2).norm()
        for codec in (get_codec("int4"), replace(get_codec("int4"), keeps_mean=False))
    ]
    assert errors[0] < errors[1] / 5


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("magnitude", [6e4, 1e3, 1.0, 1e-3])
def test_no_larger_error_than_half_a_step_of_an_ideal_quantiser_when_channels_are_centred(name, magnitude):
    codec = get_codec(name)
    x = torch.linspace(-magnitude, magnitude, 999).reshape(1, -1, 1).repeat(1, 1, 2)
    steps = 255 if name == "int8" else 15
    ideal = 2 * magnitude / steps / 2
    assert (encode(codec, x).floats() - x).abs().max() <= ideal * 1.01


@pytest.mark.parametrize("name", CODECS)
@given(value=st.floats(-6e4, 6e4, width=32), tokens=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_a_constant_channel_is_kept_at_least_as_well_as_float16_keeps_it(name, value, tokens):
    x = torch.full((1, tokens, 2), value)
    error = (encode(get_codec(name), x).floats(torch.float64) - x.double()).abs().max().item()
    assert error <= max(abs(value) * 2.0**-11, 2.0**-24)


@pytest.mark.parametrize("name", CODECS)
def test_a_channel_of_zeros_is_exact(name):
    x = torch.zeros(2, 5, 4)
    x[..., 1] = torch.linspace(-3, 9, 5)
    decoded = encode(get_codec(name), x).floats()
    assert torch.equal(decoded[..., [0, 2, 3]], torch.zeros(2, 5, 3))


@given(x=frames(6e4))
@settings(max_examples=50, deadline=None)
def test_float16_rounds_to_nearest(x):
    expected = x.numpy().astype(np.float16)
    np.testing.assert_array_equal(encode(get_codec("float16"), x).codes.numpy(), expected)


@pytest.mark.parametrize("name", AFFINE)
def test_real_activations_keep_the_accuracy_that_the_format_promises(name):
    x = torch.randn(4, 500, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 30, 64) + 2
    error = (encode(get_codec(name), x).floats() - x).norm() / x.norm()
    assert error < {"int8": 0.0075, "int4": 0.13}[name]


@pytest.mark.parametrize("name", CODECS)
def test_the_bytes_do_not_depend_on_the_batch_its_strides_or_the_float_type(name):
    codec = get_codec(name)
    x = torch.randn(3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    whole = encode(codec, x)
    assert whole.codes.shape == (3, 2, 7, 3 if name == "int4" else 6)
    assert whole.codes.dtype == (whole.format.code_dtype or torch.float16)
    strided = encode(codec, x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0))
    for clip in range(3):
        alone = encode(codec, x[clip])
        for part in ("codes", "scale", "zero"):
            if getattr(alone, part) is not None:
                assert torch.equal(getattr(whole, part)[clip], getattr(alone, part))
                assert torch.equal(getattr(whole, part), getattr(strided, part))
    half = x.to(torch.bfloat16)
    assert torch.equal(encode(codec, half).codes, encode(codec, half.float()).codes)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_with_the_layer(name, bad):
    x = torch.ones(2, 3, 4)
    x[1, 2, 3] = bad
    with pytest.raises(StoreError, match=r"layer visual/s1b02: values from .* takes finite values up to"):
        encode_layers({"visual/s1b01": torch.ones(2, 3, 4), "visual/s1b02": x}, get_codec(name))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_ends_where_the_codec_says(name, sign):
    codec = get_codec(name)
    x = torch.zeros(1, 2, 2)
    x[0, 0, 0] = sign * codec.limit * 0.999
    assert torch.isfinite(encode(codec, x).floats()).all()
    x[0, 0, 0] = sign * codec.limit * 1.001
    with pytest.raises(StoreError, match=f"layer {LAYER}: values from .* codec {name} takes"):
        encode(codec, x)


def test_int4_puts_the_first_half_of_the_channels_into_the_low_nibbles():
    x = torch.tensor([[[0.0, 5.0], [15.0, 20.0]]])
    tokens = encode(get_codec("int4"), x)
    assert tokens.codes.tolist() == [[[0x00], [0xFF]]]
    assert torch.allclose(tokens.floats(), x, atol=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CODECS)
def test_a_gpu_encodes_to_the_same_tokens_within_one_code(name):
    x = torch.randn(2, 3, 50, 64, generator=torch.Generator().manual_seed(0)) * 5
    on_cpu, on_gpu = encode(get_codec(name), x), encode(get_codec(name), x.cuda()).to("cpu")
    assert torch.equal(encode(get_codec(name), x.cuda()).codes.cpu(), on_gpu.codes)
    step = 1.0 if on_cpu.scale is None else on_cpu.scale.float().amax().item()
    assert (on_cpu.floats() - on_gpu.floats()).abs().max() <= step * 1.01
