"""One layer with matrices, as equations 3.1 and 3.2 print it, against loops over heads on decoded tokens.

Whole attention modules are tested with LCD, against ``nn.MultiheadAttention``.
"""

import pytest
import torch

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec
from mettle_cache.methods.distiller import LayerDistiller, MatrixOptions
from mettle_cache.methods.lcd import LCDOptions
from tests.methods.conftest import make_tokens
from tests.methods.stock import stock_meta_tokens

LAYER = LayerSpec(modality="visual", stage=4, block=2, grid=(3, 3), tokens=9, width=16)
FRAMES = 6


def frame_tokens(form):
    return make_tokens(form, FRAMES, LAYER.tokens, LAYER.width, seed=4)


def distiller(*, meta_tokens=1, steps=1, out_proj=False, shared_steps=False, **switches):
    options = LCDOptions(**{"heads": 4, "norm": False, **switches})
    matrices = MatrixOptions(out_proj=out_proj, shared_steps=shared_steps)
    return LayerDistiller(LAYER, meta_tokens, steps, options, matrices)


def build(**options):
    torch.manual_seed(1)
    module = distiller(**options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def plainly(module, x):
    """One frame's meta-tokens ``[K, D]`` of its floats ``[N, D]``, the equations written out."""
    width, size = LAYER.width, LAYER.width // module.options.heads
    meta = module.meta_tokens if hasattr(module, "meta_tokens") else None
    weights = module.mixing()
    mixed = 0 if weights is None else weights @ x
    if module.options.pretrained_branch == "linear":
        mixed = mixed + module.mix.bias[:, None]
    if meta is None:
        return mixed
    for step in range(module.steps):
        linear = module.projections[min(step, len(module.projections) - 1)]
        (wq, wk, wv), (bq, bk, bv) = linear.weight.split(width), linear.bias.split(width)
        heads = []
        for start in range(0, width, size):
            part = slice(start, start + size)
            q, k, v = meta @ wq[part].T + bq[part], x @ wk[part].T + bk[part], x @ wv[part].T + bv[part]
            heads.append(torch.softmax(q @ k.T / size**0.5, -1) @ v)
        meta = torch.cat(heads, -1)
        if module.outputs:
            meta = module.outputs[min(step, len(module.outputs) - 1)](meta)
        meta = meta + mixed
    return meta


@pytest.mark.parametrize("pretrained_branch", ["linear", "avgpool", "none"])
@pytest.mark.parametrize(
    "options",
    [{}, {"meta_tokens": 2}, {"steps": 2}, {"steps": 3, "meta_tokens": 2, "shared_steps": True, "out_proj": True}],
)
def test_outputs_and_gradients_are_those_of_the_equations(form, options, pretrained_branch):
    module = build(pretrained_branch=pretrained_branch, **options)
    tokens = frame_tokens(form)
    got = module(tokens)
    floats = tokens.floats(torch.float64)
    expected = torch.stack([plainly(module, x) for x in floats])
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(got)
    parameters = list(module.parameters())
    ours = torch.autograd.grad((got * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_without_the_attention_the_mixed_tokens_are_left():
    module, tokens = build(task_specific=False), frame_tokens("int8")
    floats = tokens.floats(torch.float64)
    expected = torch.stack([plainly(module, x) for x in floats])
    torch.testing.assert_close(module(tokens), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("task_specific", [True, False])
def test_projected_and_summed_meta_tokens_are_those_of_the_sum(task_specific):
    module, tokens = build(meta_tokens=3, task_specific=task_specific), frame_tokens("int8")
    projection = torch.nn.Linear(LAYER.width, 5).double()
    torch.testing.assert_close(module(tokens, projection, summed=True), projection(module(tokens)).sum(1))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_attention_weights_are_those_of_the_stock_module(form, steps, norm):
    """The mean over heads that ``nn.MultiheadAttention`` gives, for the queries of the last step."""
    options = LCDOptions(heads=4, norm=norm)
    torch.manual_seed(2)
    module = LayerDistiller(LAYER, 2, steps, options).double()
    tokens = frame_tokens(form)
    weights = module.attention_weights(tokens)
    assert weights.shape == (FRAMES, 2, 4, LAYER.tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(FRAMES, 2, 4, dtype=torch.float64))
    keys = tokens.floats(torch.float64)
    asking = module.meta_tokens.expand(FRAMES, -1, -1)
    if steps == 2:
        module.steps = 1
        asking = stock_meta_tokens(module, tokens)
        module.steps = 2
    if norm:
        asking = module.norm_meta_tokens(asking)
        keys = tokens.normalised(torch.float64) * module.norm_tokens.weight + module.norm_tokens.bias
    _, expected = module.attention(asking, keys, keys, need_weights=True, average_attn_weights=True)
    torch.testing.assert_close(weights.mean(2), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shared_steps", [True, False])
def test_attention_weights_of_matrices_are_those_of_the_equations(shared_steps):
    module, tokens = build(steps=2, meta_tokens=2, shared_steps=shared_steps), frame_tokens("int8")
    weights, x = module.attention_weights(tokens)[3], tokens.floats(torch.float64)[3]
    module.steps = 1
    meta = plainly(module, x)
    (wq, wk, _), (bq, bk, _) = (
        part.split(LAYER.width) for part in (module.projections[-1].weight, module.projections[-1].bias)
    )
    q, k = ((meta @ wq.T + bq).unflatten(-1, (4, 4)), (x @ wk.T + bk).unflatten(-1, (4, 4)))
    expected = torch.softmax(torch.einsum("khe,nhe->khn", q, k) / 2, -1)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)


def test_without_the_attention_there_are_no_weights():
    with pytest.raises(UsageError, match=r"visual/s4b02 is distilled without attention \(lcd.task_specific = false\)"):
        distiller(task_specific=False).attention_weights(frame_tokens("int8"))


def test_parameters_are_counted_as_the_docstring_says():
    def count(**options):
        return sum(p.numel() for p in distiller(**options).parameters())

    d, n = LAYER.width, LAYER.tokens
    assert count() == 3 * d * d + 3 * d + d + n + 1
    assert count(steps=2) == 2 * (3 * d * d + 3 * d) + d + n + 1
    assert count(steps=2, shared_steps=True) == count()
    assert count(meta_tokens=2, pretrained_branch="avgpool", out_proj=True) == 4 * (d * d + d) + 2 * d


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"layer visual/s4b02: width 16 is not divisible by 3 heads"),
        ({"norm": True}, "three matrices and neither norm nor residual\n.*lcd.norm = false"),
        ({"residual": True}, "three matrices and neither norm nor residual"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        distiller(**options)
