"""Late bundles with random weights, made without a backbone."""

import torch

from mettle_cache.companions import HeldCompanion
from mettle_cache.late_bundle import LateBlock

STORE = "0" * 32


def late_companion(before, layer, *, heads, post, scaled=False, dtype=torch.float32, seed=0):
    """The companion of a block of random weights; ``scaled``: with layer scales."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape, about=0.0):
        return (about + 0.3 * torch.randn(shape, generator=rng, dtype=torch.float64)).to(dtype)

    d, n = layer.width, layer.tokens
    tensors = {f"{norm}_weight": draw(d, about=1) for norm in ("norm1", "norm2", "final")}
    tensors |= {f"{norm}_bias": draw(d) for norm in ("norm1", "norm2", "final")}
    for name, out, given in (("qkv", 3 * d, d), ("proj", d, d), ("fc1", 4 * d, d), ("fc2", d, 4 * d)):
        tensors |= {f"{name}_weight": draw(out, given) / given**0.5, f"{name}_bias": draw(out)}
    if layer.stage > 1:
        tensors["bias"] = draw(heads, n, n)
    if post:
        tensors["scale"] = draw(heads, 1, 1, about=10)
    if scaled:
        tensors |= {"scale1": draw(d, about=0.5), "scale2": draw(d, about=0.5)}
    return HeldCompanion(late_block(before, layer, heads=heads, post=post).describe(STORE), tensors)


def late_block(before, layer, *, heads, post):
    return LateBlock(
        family="swinv2" if post else "swin" if layer.stage > 1 else "vit",
        layer=layer,
        before=before,
        heads=heads,
        norm="post" if post else "pre",
        attention="cosine" if post else "dot",
        eps=1e-5,
        final_eps=1e-5,
    )


class ShapesOnly:
    """A companion whose tensors nobody may read, for counting: as a file's header."""

    def __init__(self, before, layer, *, heads, post):
        d, n = layer.width, layer.tokens
        self.description = late_block(before, layer, heads=heads, post=post).describe(STORE)
        norms = {f"{norm}_{part}": (d,) for norm in ("norm1", "norm2", "final") for part in ("weight", "bias")}
        linears = {"qkv": (3 * d, d), "proj": (d, d), "fc1": (4 * d, d), "fc2": (d, 4 * d)}
        self.shapes = {
            **norms,
            **{f"{name}_weight": shape for name, shape in linears.items()},
            **{f"{name}_bias": shape[:1] for name, shape in linears.items()},
            **({"bias": (heads, n, n)} if layer.stage > 1 else {}),
            **({"scale": (heads, 1, 1)} if post else {}),
        }

    def load(self):
        raise AssertionError("the tensors are read")
