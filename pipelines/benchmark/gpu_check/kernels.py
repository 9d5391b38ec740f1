"""Pooling on the device: exact against the float64 reference, and how much of the copy bandwidth it reaches.

For each codec and each stage of the two backbones, forward and backward, as the paper's best row pools: one meta-token,
eight heads, a norm, and one mixing row.

Shapes: F frames, N tokens, D channels, Q queries, C contexts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mettle_cache.layers import LayerSpec, group_by_array
from mettle_cache.methods.kernels import klt
from mettle_cache.methods.kernels.ops import Implementation, choose_implementation
from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.layer_tokens import bench_clip, bench_layers, reorder_tokens
from mettle_cache.tokens import LayerTokens

CODECS = ("float16", "int8", "int4", "klt1.5")
CLIPS, TINY_CLIPS = 16, 2
HEADS, EPS = 8, 1e-5
# frames on which results are compared
COMPARED = 8
# float32 sums of thousands of terms in another order differ by so much, or by some times what plain attention makes
LEAST_ERROR, AGAINST_PLAIN = 4e-6, 4.0
GOALS = {"forward": 0.85, "backward": 0.80}


class Problem(NamedTuple):
    """One pooling; gradients are those of contexts ``[C, F, D]`` and of mixed tokens ``[F, 1, D]``."""

    tokens: LayerTokens
    queries: Tensor
    mixing: Tensor
    d_context: Tensor
    d_mixed: Tensor

    def first(self, frames: int, dtype: torch.dtype) -> Problem:
        """The same for fewer frames in another precision."""
        given = (self.queries, self.mixing, self.d_context[:, :frames], self.d_mixed[:frames])
        return Problem(self.tokens[:frames], *(tensor.to(dtype) for tensor in given))


def run(setting: Setting) -> Iterator[Finding]:
    """For every codec its largest error, and for each stage a line forward and one backward."""
    for codec in CODECS:
        compared: list[Finding] = []
        timed: list[Finding] = []
        for stage, members in group_by_array(bench_layers(tiny=setting.tiny)).items():
            problem = make_problem(members[0], codec, setting)
            compared.append(compare(f"{codec} {stage}", problem))
            timed += measure(f"{codec} {stage}, {members[0].tokens} x {members[0].width}", codec, problem, setting)
        yield max(compared, key=lambda one: (not one.passed, one.value or 0.0))
        yield from timed


def make_problem(layer: LayerSpec, codec: str, setting: Setting) -> Problem:
    """A batch of clips of one layer on the device, with random queries and gradients."""
    one = bench_clip([layer], codec)
    clips = [reorder_tokens(one, clip)[layer.name] for clip in range(TINY_CLIPS if setting.tiny else CLIPS)]
    tokens = _stack(clips).to(setting.device)
    frames, width = tokens.codes.shape[0], layer.width
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(setting.device)

    # logits of a few units, as trained queries give
    queries = draw(HEADS, width, scale=2 * width**-0.5)
    mixing = draw(1, layer.tokens, scale=layer.tokens**-0.5)
    return Problem(tokens, queries, mixing, draw(HEADS, frames, width), draw(frames, 1, width))


def _stack(clips: list[LayerTokens]) -> LayerTokens:
    parts = {name: torch.cat([clip.parts[name] for clip in clips]) for name in clips[0].parts}
    return LayerTokens(torch.cat([clip.codes for clip in clips]), clips[0].format, parts, clips[0].static)


Results = dict[str, Tensor]


def pooled(way: Implementation, problem: Problem) -> Results:
    """What an implementation gives: pooled tokens, and the gradients of queries and mixing row."""
    tokens, queries, mixing, d_context, d_mixed = problem
    context, mixed = way.pool(tokens, queries, mixing, EPS, HEADS)
    gradient = way.pool_backward(tokens, queries, mixing, EPS, d_context, d_mixed)
    assert gradient.mixing is not None
    return {"context": context, "mixed": mixed, "d_queries": gradient.queries, "d_mixing": gradient.mixing}


def attended(problem: Problem) -> Results:
    """The same from decoded tokens by plain attention and autograd, in the queries' precision."""
    tokens, queries, mixing, d_context, d_mixed = problem
    dtype = queries.dtype
    normalised, raw = tokens.normalised(dtype, eps=EPS), tokens.floats(dtype)
    asking, mixing = queries.clone().requires_grad_(), mixing.clone().requires_grad_()
    weights = (asking @ normalised.mT).softmax(-1)
    context, mixed = (weights @ normalised).transpose(0, 1), mixing @ raw
    torch.autograd.backward([context, mixed], [d_context, d_mixed])
    assert asking.grad is not None
    assert mixing.grad is not None
    return {"context": context.detach(), "mixed": mixed.detach(), "d_queries": asking.grad, "d_mixing": mixing.grad}


def error_of(found: Results, exact: Results) -> float:
    """The largest difference of any result, over that result's peak."""
    return max(float((found[name].double() - one).abs().max() / one.abs().max()) for name, one in exact.items())


def compare(name: str, problem: Problem) -> Finding:
    """The way that training takes and plain attention in float32, both against plain attention in float64."""
    small, exact = (problem.first(COMPARED, dtype) for dtype in (torch.float32, torch.float64))
    way, truth = choose_implementation(small.tokens, small.queries), attended(exact)
    error, of_plain = error_of(pooled(way, small), truth), error_of(attended(small), truth)
    return Finding(
        what=f"{name} error",
        value=error,
        unit="of the peak",
        limit=of_plain,
        limit_is="plain attention in float32",
        # a nan is no small error
        passed=error <= max(LEAST_ERROR, AGAINST_PLAIN * of_plain),
        note=f"{_name_of(way, small.tokens)}; the largest of the stages",
    )


def measure(name: str, codec: str, problem: Problem, setting: Setting) -> Iterator[Finding]:
    """Bytes of codes a second, forward and backward, beside the bandwidth of a copy."""
    tokens, queries, mixing, d_context, d_mixed = problem
    way = choose_implementation(tokens, queries)
    works = {
        "forward": lambda: way.pool(tokens, queries, mixing, EPS, HEADS),
        "backward": lambda: way.pool_backward(tokens, queries, mixing, EPS, d_context, d_mixed),
    }
    limit = setting.copy_bandwidth / 1e9
    for direction, work in works.items():
        rate = tokens.nbytes / setting.time(work) / 1e9
        yield Finding(
            what=f"{name} {direction}",
            value=rate,
            unit="GB/s",
            limit=limit,
            limit_is="copy",
            share=rate / limit,
            least=GOALS[direction] if codec == "int8" and not setting.tiny else None,
            note=_name_of(way, tokens),
        )


def _name_of(way: Implementation, tokens: LayerTokens) -> str:
    """What pools, as a module of the kernels."""
    chosen: object = way
    if klt.fits(tokens, tokens.codes):
        chosen = klt.choose_row_pooling(klt.make_rows(tokens, torch.float32, normed=True))
    return getattr(chosen, "__name__", type(chosen).__name__).removeprefix("mettle_cache.methods.kernels.")
