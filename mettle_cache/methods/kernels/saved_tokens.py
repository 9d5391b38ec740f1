"""Tokens between a forward and a backward pass: autograd saves their tensors, and what else they are lies beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mettle_cache.tokens import LayerTokens, TokenFormat


@dataclass(frozen=True)
class TokensForm:
    """Tokens without their tensors."""

    format: TokenFormat
    parts: tuple[str, ...]
    static: tuple[str, ...]

    @property
    def tensors(self) -> int:
        """How many tensors such tokens have."""
        return 1 + len(self.parts) + len(self.static)


def save_tokens(tokens: LayerTokens) -> tuple[TokensForm, tuple[Tensor, ...]]:
    """The tensors of tokens, for ``save_for_backward``, and the rest."""
    form = TokensForm(tokens.format, tuple(tokens.parts), tuple(tokens.static))
    return form, (tokens.codes, *tokens.parts.values(), *tokens.static.values())


def saved_tokens(form: TokensForm, saved: Sequence[Tensor]) -> LayerTokens:
    """The tokens whose tensors :func:`save_tokens` gave."""
    count = 1 + len(form.parts)
    parts, static = zip(form.parts, saved[1:count], strict=True), zip(form.static, saved[count:], strict=True)
    return LayerTokens(saved[0], form.format, dict(parts), dict(static))
