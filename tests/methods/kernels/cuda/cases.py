"""What the interpreted kernels pool: small layers of every kind, and vectors for them."""

from typing import NamedTuple

import torch

from tests.methods.conftest import make_tokens


class Case(NamedTuple):
    """``asked`` queries in so many ``contexts``; several programs of a launch take the frames."""

    form: str
    frames: int
    count: int
    width: int
    asked: int
    contexts: int
    mixers: int
    eps: float | None
    per_frame: bool = False

    def __str__(self):
        ask = f"{self.asked}/{self.contexts}+{self.mixers}"
        norm = "" if self.eps is None else " norm"
        return f"{self.form} {self.frames}x{self.count}x{self.width} {ask}{norm}{' each' if self.per_frame else ''}"

    def inputs(self, seed=0):
        """Tokens, queries, mixing rows, and the gradients of contexts and mixed tokens."""
        rng = torch.Generator().manual_seed(1000 * seed + self.frames * 100 + self.count)
        shape = (self.frames, self.asked, self.width) if self.per_frame else (self.asked, self.width)
        queries = torch.randn(shape, generator=rng) * 0.1
        mixing = torch.randn(self.mixers, self.count, generator=rng) if self.mixers else None
        d_context = torch.randn(self.contexts, self.frames, self.width, generator=rng)
        d_mixed = torch.randn(self.frames, self.mixers, self.width, generator=rng)
        return (
            make_tokens(self.form, self.frames, self.count, self.width, seed=seed),
            queries,
            mixing,
            d_context,
            d_mixed,
        )


EPS = 1e-5
CASES = [
    Case("int8", 3, 33, 16, 4, 2, 1, EPS),
    Case("int4", 3, 33, 16, 4, 2, 1, None),
    Case("float16", 2, 33, 16, 4, 2, 1, EPS),
    # K of 2 with eight heads; queries of each frame, as later steps have them
    Case("int8", 2, 20, 24, 16, 8, 1, EPS, per_frame=True),
    # more tokens and channels than a tile has, none a multiple of it
    Case("int8", 1, 70, 150, 4, 2, 2, EPS),
    # more rows than a tile has
    Case("int8", 1, 10, 16, 36, 18, 3, EPS),
    # no attention, no mixing rows, one token, one pair of channels
    Case("int8", 2, 9, 16, 0, 0, 2, None),
    Case("float16", 2, 9, 16, 2, 1, 0, EPS),
    Case("int8", 3, 1, 2, 2, 2, 1, None),
    # planes of 8, 2 and 1 bits; then squares of tokens and a frame's shift
    Case("klt", 2, 20, 16, 4, 2, 1, EPS),
    Case("klt cells", 1, 24, 16, 4, 2, 2, None),
]
MORE_CASES = [
    Case("int8", 3, 33, 16, 4, 2, 1, None),
    Case("int4", 3, 33, 16, 4, 2, 1, EPS),
    Case("float16", 3, 33, 16, 4, 2, 1, None),
    Case("int8", 2, 20, 24, 8, 8, 1, EPS),
    Case("int4", 2, 20, 24, 16, 16, 2, EPS),
    Case("int4", 1, 70, 150, 4, 2, 2, None),
    Case("klt", 3, 20, 16, 4, 2, 1, None, per_frame=True),
    Case("klt cells", 2, 24, 16, 4, 2, 2, EPS),
    Case("klt cells", 1, 72, 16, 8, 8, 1, EPS, per_frame=True),
]
# of a few layers
STAGE = Case("int8", 3, 9, 16, 2, 1, 1, EPS)
