"""How users write a backbone: ``NAME[@SIZE][=WEIGHTS]``."""

from __future__ import annotations

from dataclasses import dataclass

from mettle_cache.errors import UsageError

SMALLEST, LARGEST = 16, 4096


@dataclass(frozen=True)
class BackboneChoice:
    """A backbone and its weights: ``pretrained``, ``random`` or a file's path. ``name`` keeps its ``@SIZE``."""

    name: str
    weights: str = "pretrained"

    def __str__(self) -> str:
        return self.name if self.weights == "pretrained" else f"{self.name}={self.weights}"


def parse_backbone(text: str) -> BackboneChoice:
    """Read ``NAME[@SIZE][=WEIGHTS]``; whether the name is known is for the registry to say.

    Raises
    ------
    UsageError
        An empty name or empty weights, or a size that :func:`split_size` refuses.
    """
    name, separator, weights = text.strip().partition("=")
    name, weights = name.strip(), weights.strip()
    if not name:
        raise UsageError(f"backbone '{text}' has no name", hint="write NAME, NAME@SIZE or NAME=FILE")
    if separator and not weights:
        raise UsageError(
            f"backbone '{text}' names no weights after '='", hint=f"write {name}=FILE, {name}=random, or just {name}"
        )
    split_size(name)
    return BackboneChoice(name, weights or "pretrained")


def split_size(name: str) -> tuple[str, int | None]:
    """``vit_small_patch14_dinov2@224`` to its name and the side of its square input in pixels; None without ``@``.

    Raises
    ------
    UsageError
        A size that is not a whole number from 16 to 4096, or nothing before the ``@``.
    """
    base, separator, digits = name.partition("@")
    if not separator:
        return name, None
    size = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST)) else 0
    if not base or not SMALLEST <= size <= LARGEST:
        raise UsageError(
            f"backbone '{name}': the size after '@' must be a whole number of pixels from {SMALLEST} to {LARGEST}",
            hint=f"for example {base or 'swinv2_l'}@224",
        )
    return base, size
