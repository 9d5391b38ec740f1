"""The GPU kernels compiled for each generation, and what the assembler says: nothing may leave the registers."""

import pytest
import torch

from mettle_cache.klt_tokens import BITS

pytest.importorskip("triton")

from mettle_cache.methods.kernels.cuda import launch
from mettle_cache.methods.kernels.cuda.kernel import Block
from mettle_cache.methods.kernels.cuda.launch import Pooling
from tests.methods.kernels.cuda.compiled import compile_launch, resources_of

# a program of four warps, of which two fit a multiprocessor; all GPUs have more shared memory than that for both
REGISTERS, SHARED = 255, 48 << 10
CAPABILITIES = (86, 89, 90, 120)
# rows, components and places of the stages of Swin-V2-L and HTS-AT
STAGES = {
    "swin": [(2304, 192), (576, 384), (144, 768), (36, 1536)],
    "htsat": [(4096, 96), (1024, 192), (256, 384), (64, 768)],
}
CODES = {"int8": (torch.int8, 8), "int4": (torch.uint8, 4), "float16": (torch.float16, 8)}


def affine(form, rows, width, **changes):
    """An affine layer, or one of floats, as the paper's best row asks it: two meta-tokens, eight heads, one sum."""
    codes, bits = CODES[form]
    asked = {"queries": 16, "contexts": 8, "mixers": 1, **changes}
    return codes, Pooling(rows=rows, width=width, bits=bits, scaled=form != "float16", norm=True, eps=1e-5, **asked)


def klt(places, rows, width, **changes):
    """A layer of planes, a quarter of the components in each."""
    planes = tuple(width // 4 * bits // 8 for bits in BITS)
    asked = {"queries": 16, "contexts": 8, "mixers": 1, **changes}
    return torch.uint8, Pooling(rows=rows, width=width, planes=planes, norm=True, places=places, **asked)


def resources(codes, pooling, capability, folder, *, blocks=2, frames=4):
    """Compile for two layers whose arrays hold no numbers."""

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    width, places, room = pooling.width, pooling.places, pooling.places * pooling.room
    stride = width * pooling.bits // 8 if pooling.bits else sum(pooling.planes)
    constants = {"dtype": torch.float32} if pooling.klt else {"dtype": torch.float16}
    block = Block(
        codes=empty(frames, pooling.rows, stride, dtype=codes),
        scale=empty(frames, width, **constants),
        zero=empty(frames, width, **constants),
        asked=empty(pooling.queries * places, width),
        d_context=empty(pooling.contexts * places, frames, width).transpose(0, 1),
        d_mixed=empty(frames, pooling.mixers * places, width),
        mixing=empty(pooling.mixers, room),
        sigma=empty(frames, room),
        mu=empty(frames, room),
        sides=empty(frames, pooling.vectors, 3),
    )
    return resources_of(compile_launch(launch.prepare([block] * blocks, pooling), capability), capability, folder)


def check(found):
    assert found.spilled == 0
    assert 32 < found.registers <= REGISTERS
    assert 0 < found.shared <= SHARED


@pytest.mark.parametrize(
    ("capability", "codes", "pooling"),
    [
        (86, *affine("int8", 2304, 192, back=True)),
        (89, *affine("int4", 576, 384)),
        (120, *klt(1, 144, 256)),
    ],
    ids=["int8 back", "int4", "klt"],
)
def test_nothing_leaves_the_registers(capability, codes, pooling, tmp_path):
    check(resources(codes, pooling, capability, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
@pytest.mark.parametrize("backbone", STAGES)
@pytest.mark.parametrize("form", [*CODES, "klt", "klt cells"])
def test_nothing_leaves_the_registers_at_any_stage(form, backbone, back, capability, tmp_path):
    for rows, width in STAGES[backbone]:
        for queries in (8, 16):
            if form in CODES:
                case = affine(form, rows, width, queries=queries, back=back)
            else:
                places = 4 if form == "klt cells" else 1
                case = klt(places, rows // places, width, queries=queries, back=back)
            found = resources(*case, capability, tmp_path)
            print(f"sm_{capability} {form} {'back' if back else 'forward'} {rows}x{width} {queries}: {found}")  # noqa: T201
            check(found)


def test_a_tile_that_is_too_large_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "REGISTERS", 64)
    assert resources(*affine("int8", 2304, 192), 86, tmp_path).spilled > 0
