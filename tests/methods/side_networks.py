"""What the tests of LST and UniPT have in common: layer tables, tokens, and the comparison with an oracle."""

import torch

from mettle_cache.layers import LayerSpec, group_by_array
from tests.methods.conftest import make_tokens

CLIPS, SEGMENTS = 2, 2


def table(modality, *stages):
    """Layers of ``(blocks, grid, width)`` by stage."""
    return tuple(
        LayerSpec(modality=modality, stage=stage, block=block, grid=grid, tokens=grid[0] * grid[1], width=width)
        for stage, (blocks, grid, width) in enumerate(stages, start=1)
        for block in range(1, blocks + 1)
    )


def with_embedding(layers):
    """Block 0 of the first stage, then the layers."""
    first = layers[0]
    values = {"modality": first.modality, "grid": first.grid, "tokens": first.tokens, "width": first.width}
    return (LayerSpec(stage=1, block=0, **values), *layers)


def stage_outputs(layers):
    return tuple(members[-1] for members in group_by_array(layers).values())


HIERARCHICAL = table("visual", (2, (4, 6), 8), (2, (2, 3), 16))
FLAT = tuple(LayerSpec(modality="visual", stage=1, block=block, grid=(2, 3), tokens=7, width=12) for block in (1, 2, 3))
# a grid that the last one does not divide
UNEVEN = table("audio", (1, (5, 4), 8), (2, (2, 3), 16))

SWIN = table("visual", (2, (48, 48), 192), (2, (24, 24), 384), (18, (12, 12), 768), (2, (6, 6), 1536))
HTSAT = table("audio", (2, (64, 64), 96), (2, (32, 32), 192), (6, (16, 16), 384), (2, (8, 8), 768))
VIT = tuple(
    LayerSpec(modality="visual", stage=1, block=block, grid=(14, 14), tokens=197, width=1024) for block in range(1, 25)
)


def clip_tokens(form, layers, clips=CLIPS):
    frames = clips * SEGMENTS
    flat = {
        layer.name: make_tokens(form, frames, layer.tokens, layer.width, seed=layer.stage * 10 + layer.block)
        for layer in layers
    }
    return {name: tokens.map(lambda part: part.unflatten(0, (clips, SEGMENTS))) for name, tokens in flat.items()}


def far_from_the_start(module, seed=0):
    """The module in double precision, its parameters moved from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
    return module


def frames_of(tokens):
    """Decoded tokens by layer name: ``[F, N, D]`` in double precision."""
    return {name: stored.floats(torch.float64).flatten(0, 1) for name, stored in tokens.items()}


def assert_equals(module, oracle, tokens):
    """``oracle(parameters by name, frames)`` gives ``[F, d]``: outputs and gradients are the module's to 1e-10."""
    output = module(tokens)
    assert output.shape == (*next(iter(tokens.values())).codes.shape[:2], module.output_dim)
    pulled = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    (output * pulled).sum().backward()
    parameters = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
    expected = oracle(parameters, frames_of(tokens)).view_as(output)
    (expected * pulled).sum().backward()
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    for name, parameter in module.named_parameters():
        theirs = parameters[name].grad
        theirs = torch.zeros_like(parameter) if theirs is None else theirs
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            parameter.grad, theirs, rtol=1e-10, atol=1e-10 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def gradients(module, tokens):
    """The gradient of the sum of squares of the output, by parameter, and no trace of it left behind."""
    module.zero_grad()
    module(tokens).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def assert_micro_batches_add_up(module, tokens):
    """The gradient of a batch of clips is the sum of those of the clips."""
    whole = gradients(module, tokens)
    clips = len(next(iter(tokens.values())).codes)
    parts = [gradients(module, {name: t[i : i + 1] for name, t in tokens.items()}) for i in range(clips)]
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), gradient, rtol=1e-10, atol=1e-10)


def assert_close_under_autocast(module, tokens):
    """Outputs are near those of single precision, and gradients are there and finite."""
    expected = module(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(tokens)
    assert (output - expected).abs().max() < 0.03 * expected.abs().max()
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def kept_floats(module, tokens):
    """Shapes of the floats that a forward pass keeps for the backward pass, the module's parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    own |= {t.codes.untyped_storage().data_ptr() for t in tokens.values()}
    kept = {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(tokens)
    return [tuple(tensor.shape) for tensor in kept.values()]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
