"""Stored tokens to distil: the codecs' forms, made without the store."""

import pytest
import torch

from mettle_cache.klt_tokens import BITS, KltFormat
from mettle_cache.tokens import FLOATS, INT4, INT8, LayerTokens, pack_int4

KLT_FORMS = ("klt", "klt cells", "klt0")
FORMS = ("float64", "float16", "int8", "int4", *KLT_FORMS)


def make_tokens(form, frames, count, width, *, seed=0):
    """Tokens ``[frames, count, width]`` whose exact value is what ``floats`` decodes."""
    rng = torch.Generator().manual_seed(seed)
    if form.startswith("float"):
        values = torch.randn(frames, count, width, generator=rng, dtype=torch.float64) * 3 + 0.5
        return LayerTokens(values.to(getattr(torch, form)), FLOATS)
    if form in KLT_FORMS:
        return make_klt_tokens(form, frames, count, width, rng)
    scale = (torch.rand(frames, width, generator=rng) * 0.05 + 0.005).half()
    zero = (torch.randn(frames, width, generator=rng) * 40).half()
    parts = {"scale": scale, "zero": zero}
    if form == "int8":
        return LayerTokens(
            torch.randint(-128, 128, (frames, count, width), generator=rng, dtype=torch.int8), INT8, parts
        )
    codes = torch.randint(0, 16, (frames, count, width), generator=rng, dtype=torch.uint8)
    return LayerTokens(pack_int4(codes), INT4, parts)


def make_klt_tokens(form, frames, count, width, rng):
    """``klt cells`` has cells where four tokens are one, and a shift; ``klt0`` has no components."""
    cell = 2 if form == "klt cells" and count % 4 == 0 else 1
    grid, planes = (cell, count // cell), (0, 0, 0, 0) if form == "klt0" else (8, 0, 16, 24)
    klt = KltFormat(width, grid, count, planes, cell, shifted=form == "klt cells")
    codes = [
        torch.randint(0, 2**bits, (frames, count // klt.places, number), generator=rng)
        for number, bits in zip(planes, BITS, strict=True)
    ]
    norm = [torch.randn(frames, count, generator=rng), torch.rand(frames, count, generator=rng) * 2 + 0.3]
    parts = {"norm": torch.stack(norm, -1).half()}
    parts |= {name: torch.randn(frames, width, generator=rng).half() for name in klt.parts[1:]}
    basis = torch.randn(width * klt.places, klt.components, generator=rng) / max(klt.components, 1) ** 0.5
    step = torch.rand(klt.components, generator=rng) * torch.cat(
        [torch.full((number,), 4 / 2**bits) for number, bits in zip(planes, BITS, strict=True)]
    )
    static = {"basis": basis.half(), "step": step, "bits": torch.zeros(klt.components, dtype=torch.uint8)}
    return LayerTokens(klt.pack(torch.cat(codes, -1)), klt, parts, static)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param
