"""The one state dict that is wanted, wherever in a checkpoint it lies and whatever stands before its names.

Training frameworks wrap a network: the state dict lies under ``model_state_dict`` or ``teacher`` beside an optimiser's,
and its names begin with ``module.``, ``_orig_mod.`` or ``backbone.``. Which of them is the network's is known from the
names that it wants.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mettle_cache.errors import WeightsError
from mettle_cache.weights_file import read_weights_file

PREFERRED = ("", "state_dict", "model", "model_state_dict", "net", "network", "module", "model_ema", "ema", "teacher")
"""Where two places fit equally well, the one that comes first here, and any of these before others."""

WRAPPERS = ("module", "model", "net", "network", "backbone", "encoder", "trunk")
"""Before every name of a checkpoint they are no part of the network, whatever its architecture calls its layers."""

_INSIDE_NAMES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_DEEPEST = 4
_LISTED = 3
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Tensors by the names that the network gives them, floats as float32.

    ``source`` says, for people, the file and where in it they lay. ``prefix`` stood before their names.
    """

    tensors: dict[str, Tensor]
    source: str
    prefix: str


def read_state_dict(path: Path, wanted: Collection[str] = ()) -> Weights:
    """The state dict of ``path`` that holds most of the names in ``wanted``, under one prefix.

    Tensors outside the prefix are another network's (a projection head's, a text tower's) and left out; the source says
    how many. Without a fit, and where nothing is wanted, it is the first state dict there is, with all its names.

    Raises
    ------
    WeightsError
        As :func:`~mettle_cache.weights_file.read_weights_file`; no tensors, or values that are not finite numbers.
    """
    content = read_weights_file(path)
    places = list(_state_dicts(content))
    if not places:
        keys = ", ".join(f"'{key}'" for key in list(content)[:_LISTED]) or "nothing"
        raise WeightsError(
            f"weights file {path} holds no tensors, but {keys}", hint="give a file with a model's state dict"
        )
    fits = sorted((_Fit.best(place, names, wanted) for place, names in places), key=lambda fit: fit.order)
    best = fits[0]
    inside = {key: value for key, value in best.names.items() if key.startswith(best.prefix)}
    tensors = {key.removeprefix(best.prefix): value for key, value in inside.items()}
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    _refuse_nan(tensors, path)
    return Weights(tensors, f"file {path}{best.describe(fits[1:])}", best.prefix)


@dataclass(frozen=True)
class _Fit:
    """One state dict of a checkpoint, the prefix under which most wanted names are, and how many they are."""

    place: tuple[str, ...]
    names: Mapping[str, Tensor]
    prefix: str
    found: int

    @classmethod
    def best(cls, place: tuple[str, ...], names: Mapping[str, Tensor], wanted: Collection[str]) -> _Fit:
        counts = Counter(_prefixes(names, frozenset(wanted)))
        prefix = max(counts, key=lambda prefix: (counts[prefix], -_rank(prefix), -len(prefix)), default="")
        if 2 * counts[prefix] >= len(wanted) > 0:
            return cls(place, names, prefix, counts[prefix])
        # names of the architecture's original repository, for one
        return cls(place, names, _common_prefix(names), 0)

    @property
    def order(self) -> tuple[int, ...]:
        """The best fit is the smallest; equals keep the checkpoint's order."""
        return (-self.found, len(self.place), *(_rank(f"{key}.") for key in self.place))

    def describe(self, others: Collection[_Fit]) -> str:
        """What a reader of ``file NAME`` should know, after a colon; nothing where the file is the state dict."""
        parts = [f"its '{'.'.join(self.place)}'"] if self.place else []
        if self.prefix:
            parts.append(f"names without '{self.prefix}'")
        left_out = sum(not key.startswith(self.prefix) for key in self.names)
        if left_out:
            parts.append(f"{left_out} other tensors left out")
        equals = [f"'{'.'.join(fit.place)}'" for fit in others if fit.found == self.found > 0]
        if equals:
            parts.append(f"{' and '.join(equals)} would fit as well")
        return f" ({', '.join(parts)})" if parts else ""


def _rank(prefix: str) -> int:
    first = prefix.partition(".")[0]
    return PREFERRED.index(first) if first in PREFERRED else len(PREFERRED)


def _common_prefix(names: Collection[str]) -> str:
    """The well-known wrappers that stand before every name."""
    prefix = ""
    while True:
        firsts = {name[len(prefix) :].partition(".")[0] for name in names}
        if len(firsts) != 1 or not firsts <= {*WRAPPERS}:
            return prefix
        prefix += f"{firsts.pop()}."


def _prefixes(names: Collection[str], wanted: frozenset[str]) -> Iterator[str]:
    """For every name that ends in a wanted one, what stands before that."""
    for name in names:
        at = 0
        for _ in range(_DEEPEST + 1):
            if name[at:] in wanted:
                yield name[:at]
            at = name.find(".", at) + 1
            if not at:
                break


def _state_dicts(content: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary with named tensors and the keys that lead to it, outer ones first, each once."""
    waiting: deque[tuple[tuple[str, ...], Mapping[object, object]]] = deque([((), content)])
    seen = {id(content)}
    while waiting:
        place, mapping = waiting.popleft()
        named = {key: value for key, value in mapping.items() if isinstance(key, str)}
        tensors = {_unwrapped(key): value for key, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            yield place, tensors
        for key, value in named.items():
            if isinstance(value, Mapping) and id(value) not in seen and len(place) < _DEEPEST:
                seen.add(id(value))
                waiting.append(((*place, key), value))


def _unwrapped(name: str) -> str:
    for wrapper in _INSIDE_NAMES:
        name = name.replace(wrapper, "")
    return name


def _refuse_nan(state: Mapping[str, Tensor], path: Path) -> None:
    # a count of training steps is beyond float16's range, and nothing is computed from it
    floats = {key: value for key, value in state.items() if value.is_floating_point() and not key.endswith(_COUNTER)}
    bad = [key for key, value in floats.items() if not bool(value.isfinite().all())]
    if bad:
        raise WeightsError(
            f"weights file {path} holds values that are not finite numbers, first in '{bad[0]}'",
            hint="the file is damaged or the training diverged; take another one",
        )


def explain_mismatch(expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor], what: str) -> str:
    """Why a state dict does not fit: a few of the missing and unexpected keys, and of the tensors of another shape."""
    missing = [key for key in expected if key not in loaded]
    unexpected = [key for key in loaded if key not in expected]
    shapes = [
        f"{key} {tuple(loaded[key].shape)} where {tuple(tensor.shape)} is wanted"
        for key, tensor in expected.items()
        if key in loaded and loaded[key].shape != tensor.shape
    ]
    parts = [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    return f"{what} does not fit ({'; '.join(parts)})" if parts else f"{what} does not fit"
