"""What a host reads from a device, counted: in Python, and in PyTorch's operators."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchFunctionMode):
    """Counts what asks a tensor for its numbers in Python."""

    NAMES = ("tolist", "numpy", "item", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__", "nonzero")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.counts[name] += name in self.NAMES
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    """Counts operators that read numbers, and copies between devices.

    In inference mode ``item`` and ``to`` are seen, elsewhere what they are made of.
    """

    READS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "unique", "_unique2", "masked_select")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.counts[name] += name in self.READS
        if name.startswith("index"):
            # where a mask is true is looked for within the operator
            places = args[1] if isinstance(args[1], list | tuple) else []
            self.counts["nonzero"] += any(one is not None and one.dtype == torch.bool for one in places)
        if name in ("to", "_to_copy", "copy_", "_copy_from"):
            given = [one.device.type for one in args if isinstance(one, torch.Tensor)]
            into = given[0] if name == "copy_" else result.device.type
            self.counts[f"copy to {into}"] += given[-1] != into
        return result

    @property
    def found(self):
        return +self.counts
