"""The rivals, in the order of the table. A new one is a file here, and a line in ``RIVALS``."""

from __future__ import annotations

from importlib.util import find_spec

from pipelines.benchmark.rivals.h5py import H5py
from pipelines.benchmark.rivals.mosaicml import Mosaicml
from pipelines.benchmark.rivals.numpy_memmap import NumpyMemmap
from pipelines.benchmark.rivals.protocol import Rival
from pipelines.benchmark.rivals.safetensors import Safetensors
from pipelines.benchmark.rivals.tensordict import Tensordict
from pipelines.benchmark.rivals.tensorstore import Tensorstore
from pipelines.benchmark.rivals.zarr_python import ZarrPython
from pipelines.benchmark.rivals.zarrs import Zarrs

RIVALS: tuple[Rival, ...] = (
    ZarrPython(),
    Zarrs(),
    Tensorstore(),
    H5py(),
    Safetensors(),
    Tensordict(),
    Mosaicml(),
    NumpyMemmap(),
)


def is_installed(rival: Rival) -> bool:
    """Whether the library can be imported here."""
    return find_spec(rival.module) is not None
