"""timm networks: on the meta device, with random weights, or with the weights of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mettle_cache.backbones.random_init import build_seeded, seeded
from mettle_cache.errors import UsageError, WeightsError
from mettle_cache.statedict import explain_mismatch, read_state_dict


def pretrained_cfg(name: str) -> dict[str, Any]:
    """What timm knows about a model's pretraining: input size, mean, std, interpolation, classifier, hub."""
    return dict(timm.get_pretrained_cfg(name).to_dict())


def build_meta(name: str, size: int | None, *, classifier: bool = False) -> nn.Module:
    """The network without storage, in a fraction of a second.

    Raises
    ------
    UsageError
        The network cannot be built for this input size.
    """
    with torch.device("meta"):
        return _create(name, size, {} if classifier else {"num_classes": 0}).eval()


def build_random(name: str, size: int | None, seed: int) -> nn.Module:
    """The network without its classifier, its weights drawn from a seed."""
    return build_seeded(lambda: _create(name, size, {"num_classes": 0}), seed)


def build_from_file(name: str, size: int | None, path: Path) -> nn.Module:
    """The network without its classifier, with the weights of a file: all of them, and no others.

    timm's own filter for the architecture runs on the file first: it knows the original repositories' key names and
    resamples position embeddings to the input size.

    Raises
    ------
    WeightsError
        A file that :func:`read_state_dict` refuses, or one of another architecture.
    """
    state = _without_classifier(read_state_dict(path), pretrained_cfg(name))
    overlay = {"state_dict": dict(state), "num_classes": 0, "classifier": None, "label_offset": 0, "custom_load": False}
    arguments = {"num_classes": 0, "pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        # the initial values are overwritten, but drawing them must not move the caller's random state
        with seeded(0):
            network = _create(name, size, arguments)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError) as error:
        expected = build_meta(name, size).state_dict()
        raise WeightsError(
            explain_mismatch(expected, state, f"weights file {path}") + f": it is not for '{name}'",
            hint="give the weights of this very architecture, or name the backbone that they belong to",
        ) from error
    vars(network)["pretrained_cfg"].pop("state_dict", None)
    return network


def _create(name: str, size: int | None, arguments: dict[str, Any]) -> nn.Module:
    # only networks of a fixed input size have it as an argument; others take any picture
    if size is not None and pretrained_cfg(name).get("fixed_input_size"):
        arguments = {**arguments, "img_size": size}
    try:
        network: nn.Module = timm.create_model(name, **arguments)
    except (TypeError, AssertionError, ZeroDivisionError) as error:
        if arguments.get("pretrained"):
            raise
        raise UsageError(
            f"backbone '{name}' cannot be built{f' for {size} pixels' if size else ''}: {error}",
            hint="give another size, as in NAME@224, or leave it out",
        ) from error
    return network


def _without_classifier(state: dict[str, Tensor], cfg: dict[str, Any]) -> dict[str, Tensor]:
    """Tokens need no classifier, so a file may have one or not, and of any number of classes."""
    names = cfg.get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    dropped = {
        f"{head}.{part}" for name in names for head in (name, name.partition(".")[0]) for part in ("weight", "bias")
    }
    return {key: value for key, value in state.items() if key not in dropped}
