"""The last step back to a layer's value projection, compiled: one pass over matrices that no core's cache holds.

PyTorch's sums over rows take another order, and so give other bits of the norm's gradients.

Shapes: D channels. All floats are float32.
"""

from __future__ import annotations

from mettle_cache.methods.kernels.cpu.compiled import FAST, Array, compiled


@compiled(fastmath=FAST)
def leave_norm(
    d_normed: Array, d_shift: Array, values: Array, norm: Array, norm_bias: Array, d_norm: Array, d_norm_bias: Array
) -> None:
    """From ``values * norm`` and ``values @ norm_bias`` back to ``values [D, D]``, ``norm`` and ``norm_bias [D]``.

    Their gradients come as ``d_normed [D, D]``, which becomes that of the values, and ``d_shift [D]``.
    """
    d_norm[:], d_norm_bias[:] = 0, 0
    for e in range(values.shape[0]):
        shift, gradients, row = d_shift[e], d_normed[e], values[e]
        for d in range(values.shape[1]):
            d_norm[d] += gradients[d] * row[d]
            d_norm_bias[d] += shift * row[d]
            gradients[d] = gradients[d] * norm[d] + shift * norm_bias[d]
