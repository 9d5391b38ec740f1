"""A digest inside a safetensors file that lies alone, an exported head or grounding weights: no damage goes unnoticed.

It stands in the JSON description that the file holds as metadata, and is of that description and all tensors. Files of
earlier versions have none, and are read without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "digest"


def seal(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> dict[str, Any]:
    """The description with the digest in it."""
    return {**description, DIGEST: _digest(tensors, description)}


def seal_fits(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bool:
    """Whether tensors and description are those that were sealed; true without a digest."""
    rest = {key: value for key, value in description.items() if key != DIGEST}
    return DIGEST not in description or description[DIGEST] == _digest(tensors, rest)


def file_seal_fits(path: Path) -> bool:
    """:func:`seal_fits` for a file of whatever kind; true for what is no sealed file."""
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            descriptions = [json.loads(text) for text in (opened.metadata() or {}).values()]
    except (SafetensorError, OSError, ValueError, RecursionError):
        return True
    return all(seal_fits(tensors, table) for table in descriptions if isinstance(table, dict))


def _digest(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    import torch

    digest = hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
