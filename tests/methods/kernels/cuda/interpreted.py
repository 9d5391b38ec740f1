"""Run the kernels in Triton's interpreter and leave what they give in a file: ``python interpreted.py FILE [more]``.

Triton decides when a kernel is decorated whether it is compiled or interpreted, so that this is a process of its own.
"""

import os
import sys
import warnings

os.environ["TRITON_INTERPRET"] = "1"
import torch
import triton.runtime.interpreter as interpreter

from mettle_cache.methods.kernels import klt
from mettle_cache.methods.kernels.cuda import klt_pooling, pooling
from tests.methods.kernels.cuda.cases import CASES, MORE_CASES, STAGE

_patch = interpreter._patch_lang_tensor


def let_loops_end_at_numbers(tensor, scope):
    """Triton 3.6 makes an index of an array of one number, which numpy 2.4 no longer takes for a number."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def run(case):
    tokens, queries, mixing, d_context, d_mixed = case.inputs()
    way = klt if klt.fits(tokens, queries) else pooling
    assert way is klt or way.is_kernel_for(tokens, queries)
    context, mixed = way.pool(tokens, queries, mixing, case.eps, case.contexts)
    found = way.pool_backward(tokens, queries, mixing, case.eps, d_context, d_mixed)
    names = [name for name in ("context", "mixed", "queries", "mixing") if getattr(found, name) is not None]
    return {"pooled": (context, mixed), "back": {name: getattr(found, name).clone() for name in names}}


def run_stage(case, layers=3):
    """Layers of one stage in one launch, and each alone."""
    inputs = [case.inputs(seed) for seed in range(layers)]
    tokens, queries, mixing, d_context, d_mixed = (list(of_all) for of_all in zip(*inputs, strict=True))
    pooled = pooling.pool_stage(tokens, queries, mixing, case.eps, case.contexts)
    back = pooling.pool_stage_backward(tokens, queries, mixing, case.eps, d_context, d_mixed)
    alone = [pooling.pool(*of_layer[:3], case.eps, case.contexts) for of_layer in inputs]
    back_alone = [pooling.pool_backward(*of_layer[:3], case.eps, *of_layer[3:]) for of_layer in inputs]
    return {"stage": [*pooled, *map(numbers_of, back)], "alone": [*alone, *map(numbers_of, back_alone)]}


def numbers_of(gradient):
    return (gradient.context.clone(), gradient.mixed.clone(), gradient.queries.clone(), gradient.mixing.clone())


if __name__ == "__main__":
    klt_pooling.fits, klt.ROW_POOLINGS = klt_pooling.is_kernel_for, (klt_pooling,)
    interpreter._patch_lang_tensor = let_loops_end_at_numbers
    warnings.simplefilter("error")
    if "more" in sys.argv:
        given = {str(case): run(case) for case in MORE_CASES}
    else:
        given = {"stage": run_stage(STAGE), **{str(case): run(case) for case in CASES}}
    torch.save(given, sys.argv[1])
