"""Compile the kernel for a GPU that is not there, and read what the assembler says of it."""

import re
import subprocess
from typing import NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from mettle_cache.methods.kernels.cuda.kernel import pool_frames

WARP = 32


class Resources(NamedTuple):
    """Of one thread: registers, and bytes that did not fit them. Of a program: bytes of shared memory."""

    registers: int
    spilled: int
    shared: int


def compile_launch(launch, capability):
    """The kernel of a launch for NVIDIA GPUs of a capability such as 86, as Triton compiles it when it is launched."""
    target = GPUTarget("cuda", capability, WARP)
    backend = make_backend(target)
    options = {**launch.options, "debug": False}
    bound, specialization, _ = create_function_from_signature(pool_frames.signature, pool_frames.params, backend)(
        *launch.arguments, **options
    )
    options, signature, constants, attributes = pool_frames._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(pool_frames, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def resources_of(compiled, capability, folder):
    """What the assembler says that the compiled kernel takes."""
    file = folder / "kernel.ptx"
    file.write_text(compiled.asm["ptx"])
    # the architecture that Triton gives the assembler, which may end with a letter
    name = re.search(r"^\.target\s+(\w+)", compiled.asm["ptx"], re.MULTILINE).group(1)
    assembler = knobs.nvidia.ptxas_blackwell if capability >= 100 else knobs.nvidia.ptxas
    command = [assembler.path, "-v", f"--gpu-name={name}", str(file), "-o", str(folder / "kernel.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", said)
    ((stores, loads),) = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    return Resources(int(registers), int(stores) + int(loads), compiled.metadata.shared)
