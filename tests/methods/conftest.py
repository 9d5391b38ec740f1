"""Stored tokens to distil: the three codecs' forms, made without the store."""

import pytest
import torch

from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, pack_int4

FORMS = ("float64", "float16", "int8", "int4")


def make_tokens(form, frames, count, width, *, seed=0):
    """Tokens ``[frames, count, width]`` whose exact value is what ``floats`` decodes."""
    rng = torch.Generator().manual_seed(seed)
    if form.startswith("float"):
        values = torch.randn(frames, count, width, generator=rng, dtype=torch.float64) * 3 + 0.5
        return LayerTokens(values.to(getattr(torch, form)), FLOATS)
    scale = (torch.rand(frames, width, generator=rng) * 0.05 + 0.005).half()
    zero = (torch.randn(frames, width, generator=rng) * 40).half()
    parts = {"scale": scale, "zero": zero}
    if form == "int8":
        return LayerTokens(
            torch.randint(-128, 128, (frames, count, width), generator=rng, dtype=torch.int8), INT8, parts
        )
    codes = torch.randint(0, 16, (frames, count, width), generator=rng, dtype=torch.uint8)
    return LayerTokens(pack_int4(codes), INT4, parts)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param
